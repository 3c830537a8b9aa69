"""A broker whose connections were forgotten by a firewall: nothing says so, and the worker has to find out by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from slicewise.db import questions
from slicewise.worker.intake import submit
from slicewise.worker.queue import embedded
from slicewise.worker.settings import Settings
from tests.line import Line

# A worker that loses its patience sooner.
WORKER = """
from slicewise.worker import cli
from slicewise.worker.queue import app
app._ANSWER_SECONDS, app._HEALTH_SECONDS, app._SILENT_SECONDS = 2, 1, 3
raise SystemExit(cli.main(["worker"]))
"""


@pytest.fixture
def line(tmp_path_factory, monkeypatch):
    """A Redis at the end of a line, as the broker that is set."""
    folder = tmp_path_factory.mktemp("r")
    with ExitStack() as stack:
        server = embedded.start(folder, folder / "log")
        stack.callback(lambda: (server.kill(), server.wait()))
        made = stack.enter_context(Line(f"{folder}/redis.sock"))
        monkeypatch.setenv("SLICEWISE_BROKER_URL", f"redis://127.0.0.1:{made.port}/0")
        yield made


def test_a_worker_goes_on_over_new_connections(line, quick, opened, processes, tmp_path, write_dicom, wait_until):
    settings = Settings.from_environment()

    def done(number: int) -> None:
        path: Path = write_dicom(tmp_path / f"{number}.dcm", seed=number)
        submit([path], ring=lambda *_: None)
        with opened(settings.database_url) as database:

            def settled() -> bool:
                with database.reading() as session:
                    return questions.job_counts(session) == {"done": number}

            wait_until(settled)

    with opened(settings.database_url) as database:
        database.upgrade()
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done(1)
    line.forget()
    done(2)
    done(3)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
