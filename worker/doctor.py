"""What is installed, what really runs, what answers, and what to do about the rest."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slicewise.db import questions
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.db.records import JobStatus
from slicewise.worker import service
from slicewise.worker.errors import Misconfigured
from slicewise.worker.findings import Finding
from slicewise.worker.queue import embedded
from slicewise.worker.settings import Settings

# A worker that lives is rung every 20 s.
_UNHEARD_SECONDS = 120.0


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which a person would mend things."""
    findings = [Finding(True, f"slicewise {version('slicewise')} on Python {platform.python_version()}")]
    for check in (_runtime, _model, _gpu, _home, _broker, _database, _jobs, _trainer):
        try:
            findings.extend(check(settings))
        except Misconfigured as error:
            findings.append(Finding(False, str(error)))
    return list(dict.fromkeys(findings))


def print_findings(findings: list[Finding], form: str) -> None:
    """As lines for people or as a JSON list."""
    if form == "json":
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=1)
        print()
        return
    for finding in findings:
        print(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.text}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _runtime(settings: Settings) -> Iterator[Finding]:
    cpu, gpu = _installed("onnxruntime"), _installed("onnxruntime-gpu")
    if cpu and gpu:
        yield Finding(
            False,
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "pip uninstall both, then install slicewise[cpu] or slicewise[gpu]",
        )
    elif cpu or gpu:
        yield Finding(True, f"onnxruntime{'-gpu' if gpu else ''} {cpu or gpu}")
    else:
        yield Finding(False, "no onnxruntime: pip install 'slicewise[cpu]' or 'slicewise[gpu]'")


def _model(settings: Settings) -> Iterator[Finding]:
    from slicewise.worker.model import session, verify

    yield from verify.check(session.load(settings.serving, session.Provider(settings.provider)))


def _gpu(settings: Settings) -> Iterator[Finding]:
    # Full path by which(); asks the driver only.
    tool = shutil.which("nvidia-smi")
    answer = tool and subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=20)
    if answer and answer.returncode == 0:
        note = "" if settings.provider == "cuda" else "; SLICEWISE_PROVIDER=cuda would use it"
        yield Finding(True, answer.stdout.splitlines()[0].partition(" (UUID")[0] + note)
    elif settings.provider == "cuda":
        yield Finding(False, "cuda is set but no NVIDIA driver answers: install it, or set SLICEWISE_PROVIDER=cpu")
    else:
        yield Finding(True, "no NVIDIA driver; the CPU is used, as set")


def _home(settings: Settings) -> Iterator[Finding]:
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(settings.home).free / 2**30
    except OSError as error:
        yield Finding(False, f"{settings.home} cannot be used ({error.strerror}): set SLICEWISE_HOME to another folder")
        return
    yield Finding(free > 1, f"home {settings.home}, {free:.0f} GB free" + ("" if free > 1 else ": make room"))


def _broker(settings: Settings) -> Iterator[Finding]:
    if embedded.answers(settings.broker_url):
        yield Finding(True, "the broker answers")
    elif settings.embedded:
        if service.served(settings.home):
            yield Finding(False, f"'slicewise up' runs but its Redis does not answer: see {settings.logs}")
        else:
            yield Finding(True, f"the embedded Redis is not running now; 'run' and 'up' start {embedded.binary()}")
    else:
        yield Finding(False, "the broker at SLICEWISE_BROKER_URL does not answer: start it or correct the URL")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        database = Database(settings.database_url)
        file = database.url.database if database.url.get_backend_name() == "sqlite" else None
        if file and not Path(file).exists():
            yield Finding(True, f"{database.safe_url} does not exist yet; 'run' and 'up' make it")
            return
        yield Finding(True, f"{database.safe_url} answers, schema {database.check()}")
    except DatabaseError as error:
        yield Finding(False, str(error))


def _jobs(settings: Settings) -> Iterator[Finding]:
    try:
        database = Database(settings.database_url)
        database.check()
        with database.reading() as session:
            unheard, counts = questions.unheard(session, _UNHEARD_SECONDS), questions.job_counts(session)
    except DatabaseError:
        return  # said already
    if unheard:
        waited = f"jobs that have waited for {_UNHEARD_SECONDS:.0f} s, and no worker takes any: {unheard}"
        yield Finding(False, f"{waited}; start 'slicewise up' or 'slicewise worker', or restart it")
    dead = counts.get(JobStatus.DEAD, 0)
    yield Finding(True, f"dead jobs: {dead}; 'slicewise dead list' shows them" if dead else "no dead jobs")


def _trainer(settings: Settings) -> Iterator[Finding]:
    found = _installed("tensorflow")
    text = f"tensorflow {found}" if found else "no tensorflow (only 'train' and 'export' need it: slicewise[train])"
    yield Finding(True, text)
