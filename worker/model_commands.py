"""``slicewise model``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slicewise.worker import shell

_COLUMNS = (
    *("source", "content_sha256", "frame", "before", "after"),
    *("status_before", "status_after", "probability_before", "probability_after"),
)
_SHOWN = ("source", "frame", "before", "probability_before", "after", "probability_after")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    model = commands.add_parser("model", help="look at a model bundle, and try another one beside it")
    actions = model.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action, function, text in (
        ("show", _show, "print what a bundle says of itself"),
        ("verify", _verify, "load a bundle on the provider that is set and check its answers"),
    ):
        parser = actions.add_parser(action, help=text)
        parser.add_argument("bundle", nargs="?", type=Path, help="an .onnx file (default: the one that serves)")
        parser.set_defaults(run=function)
    compare = actions.add_parser("compare", help="score what is stored with another bundle, and list what would change")
    compare.add_argument("bundle", type=Path, help="an .onnx file")
    shell.output_options(compare)
    compare.set_defaults(run=_compare)


def _show(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from slicewise.worker.model import session

    path = options.bundle or shell.settings().model
    loaded = session.load(path, threads=1)
    print(json.dumps({"file": str(path), "sha256": loaded.sha256, **asdict(loaded.description)}, indent=1))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from slicewise.worker.model import session, verify

    settings = shell.settings()
    path = options.bundle or settings.model
    findings = verify.check(session.load(path, session.Provider(settings.provider), threads=settings.threads))
    for finding in findings:
        print(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.text}")
    return 0 if all(finding.passed for finding in findings) else shell.INCOMPLETE


def _compare(options: argparse.Namespace) -> int:
    from contextlib import closing

    from slicewise.db import questions, writes
    from slicewise.db.records import Action
    from slicewise.worker import report, shadow
    from slicewise.worker.intake.spool import Spool
    from slicewise.worker.model import session

    settings = shell.settings()
    report.check(options.output)
    candidate = session.load(options.bundle, session.Provider(settings.provider), threads=settings.threads)
    with closing(shell.database(settings)) as database:
        with database.writing() as writing:
            writes.audit(writing, shell.actor(), Action.ASKED, "model compare", candidate.sha256)
        with database.reading() as reading:
            standing = shadow.standing(questions.results(reading, model=shell.current_model(settings)))
    # Nothing is held open meanwhile: it may take hours.
    found = shadow.compare(candidate, standing, Spool(settings.spool).path, _watched)
    changed = list(shadow.as_rows(found.changed))
    if shell.for_people(options):
        if changed:
            report.print_table(changed, _SHOWN)
    else:
        report.write(changed, _COLUMNS, shell.machine_format(options), options.output)
    said = [f"{shell.counted(found.slices, 'slice')} compared, {len(changed)} would change"]
    said += [f"{shell.counted(found.gone, 'content')} not stored any more"] * bool(found.gone)
    said += [f"{shell.counted(found.failed, 'file')} could not be read now"] * bool(found.failed)
    print("; ".join(said), file=sys.stdout if shell.for_people(options) else sys.stderr)
    return shell.INCOMPLETE if found.gone or found.failed else 0


def _watched(work: Iterable[Any], count: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(work, "scoring", count, console=console, transient=True, disable=not console.is_terminal)
