"""The private Redis and the process tree: started, watched, and gone without a trace."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack, closing, suppress

import pytest
import redis

from slicewise.db import questions
from slicewise.db.engine import Database
from slicewise.worker import service
from slicewise.worker.errors import Misconfigured
from slicewise.worker.intake import submit
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import embedded
from slicewise.worker.service import Service, claimed


@pytest.fixture
def broker(settings):
    """The embedded Redis of this home, and nobody who hears its bells."""
    settings.logs.mkdir(parents=True)
    server = embedded.start(settings.home, settings.logs / "redis.log")
    client = redis.Redis(unix_socket_path=str(settings.home / "redis.sock"))
    yield client
    client.close()
    server.terminate()
    server.wait()


# --- the embedded Redis ----------------------------------------------------------------------------------------


def test_the_embedded_redis_serves_its_owner_alone_and_keeps_what_it_is_told(broker, settings):
    socket = settings.home / "redis.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    told = {name: broker.config_get(name)[name] for name in ("port", "appendonly", "dir", "save")}
    assert told == {"port": "0", "appendonly": "yes", "dir": str(settings.home / "redis"), "save": ""}
    assert embedded.answers(settings.broker_url)


def test_a_home_too_long_for_a_socket_says_what_to_do(tmp_path):
    home = tmp_path / ("x" * 100)
    with pytest.raises(Misconfigured, match="set SLICEWISE_HOME to a shorter one"):
        embedded.start(home, tmp_path / "log")


def test_a_redis_that_does_not_come_up_names_its_log(settings):
    settings.logs.mkdir(parents=True)
    (settings.home / "redis" / "appendonly.aof").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"did not come up: see .*redis\.log"):
        embedded.start(settings.home, settings.logs / "redis.log")


def test_two_never_write_the_same_file(broker, settings, monkeypatch):
    monkeypatch.setattr(embedded, "_LEAVE_SECONDS", 0.2)
    with pytest.raises(Misconfigured, match="another Redis serves"):
        embedded.start(settings.home, settings.logs / "redis.log")
    assert broker.ping()


def test_a_broker_that_is_away_does_not_answer_and_is_not_waited_for(tmp_path):
    assert not embedded.answers(f"redis+socket://{tmp_path}/nowhere")
    assert not embedded.answers("redis://127.0.0.1:1")


# --- the bell --------------------------------------------------------------------------------------------------


def test_a_message_is_the_jobs_key_in_json_and_nothing_else(broker, slicewise, settings, write_study, tmp_path, opened):
    folder = write_study(tmp_path / "Mueller^Anna", 3)
    with opened(settings.database_url) as database:
        database.upgrade()
    slicewise("submit", folder)
    slicewise("submit", folder, "--lane", "stat")
    for lane, key in (("routine", 1), ("stat", 2)):
        (message,) = (json.loads(text) for text in broker.lrange(f"slicewise:{lane}", 0, -1))
        assert message["content-type"] == "application/json"
        assert message["headers"]["task"] == "slicewise.classify"
        assert json.loads(base64.b64decode(message["body"]))[:2] == [[key], {}]
    everything = b"".join(broker.dump(name) + name for name in broker.scan_iter())
    assert b"Mueller" not in everything
    assert str(tmp_path).encode() not in everything


def test_without_a_broker_a_submission_is_kept(slicewise, settings, write_study, tmp_path, opened):
    with opened(settings.database_url) as database:
        database.upgrade()
    said = slicewise("submit", write_study(tmp_path / "s", 3)).stdout
    assert "3 files in 1 job" in said
    with opened(settings.database_url) as database, database.reading() as session:
        assert questions.job_counts(session) == {"pending": 1}


# --- who serves a home -----------------------------------------------------------------------------------------


def test_a_home_is_served_once(settings):
    with claimed(settings.home) as ours, claimed(settings.home) as theirs:
        assert (ours, theirs) == (True, False)
    with claimed(settings.home) as again:
        assert again
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700


_HOLDS = """
import sys, time
from pathlib import Path
from slicewise.worker.service import claimed
with claimed(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_a_killed_server_leaves_its_home_free(settings):
    holder = subprocess.Popen([sys.executable, "-c", _HOLDS, settings.home], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with claimed(settings.home) as ours:
        assert not ours
    holder.kill()
    holder.communicate()
    with claimed(settings.home) as ours:
        assert ours


# --- the process tree ------------------------------------------------------------------------------------------


def test_a_service_starts_everything_and_leaves_nothing(quick, settings, processes, wait_until):
    with Service(settings):
        assert embedded.answers(settings.broker_url)
        # Redis, the worker and its pool's child.
        wait_until(lambda: len(processes()) == 3)
    assert processes() == {}
    assert not (settings.home / "redis.sock").exists()


def test_with_a_broker_of_ones_own_no_redis_is_started(quick, broker, settings, processes, tmp_path):
    settings = dataclasses.replace(settings, home=tmp_path / "h", broker_url=f"{settings.broker_url}?virtual_host=1")
    with Service(settings):
        assert not (settings.home / "redis").exists()
    assert not (settings.home / "redis.sock").exists()


def test_whatever_dies_is_started_again(quick, settings, processes, wait_until, monkeypatch):
    monkeypatch.setattr(service, "_RESTART_SECONDS", 0)
    with Service(settings) as running:
        wait_until(lambda: len(processes()) == 3)
        before = processes()
        for number in before:
            with suppress(ProcessLookupError):  # the pool's child follows the worker by itself
                os.kill(number, signal.SIGKILL)
        wait_until(lambda: not before.keys() & processes().keys())
        running.watch()
        assert embedded.answers(settings.broker_url)
        wait_until(lambda: len(processes()) == 3)
    assert processes() == {}


def test_a_worker_that_hangs_is_started_again(
    quick, settings, processes, wait_until, monkeypatch, write_study, tmp_path
):
    """Stopped, it is alive for the kernel and for Redis, and takes nothing."""
    monkeypatch.setattr(service, "_STALLED_SECONDS", 15.0)
    monkeypatch.setattr(service, "_STOP_SECONDS", 1.0)
    with Service(settings) as running, closing(Database(settings.database_url)) as database:
        wait_until(lambda: len(processes()) == 3)
        for number, command in processes().items():
            if "redis" not in command:
                os.kill(number, signal.SIGSTOP)
        submit([write_study(tmp_path / "s", 3)], database=database, spool=Spool(settings.spool), ring=lambda *_: None)

        def done():
            running.watch()
            with database.reading() as session:
                return questions.job_counts(session) == {"done": 1}

        wait_until(done)
    assert processes() == {}


def test_a_worker_that_does_not_stay_up_is_given_up(quick, settings, processes, wait_until, monkeypatch, tmp_path):
    monkeypatch.setattr(service, "_RESTART_SECONDS", 0)
    monkeypatch.setattr(service, "_MOST_QUICK_DEATHS", 2)
    (tmp_path / "no.onnx").write_text("no model")

    def watch_to_the_end(running):
        wait_until(running.watch, seconds=60)

    with (
        Service(dataclasses.replace(settings, model=tmp_path / "no.onnx")) as running,
        pytest.raises(Misconfigured, match=r"does not stay up: see .*worker\.log"),
    ):
        watch_to_the_end(running)
    assert "cannot be loaded" in (settings.logs / "worker.log").read_text()
    assert processes() == {}


def test_who_stands_by_takes_the_place_of_a_service_that_ends(quick, settings, processes):
    """Two `run`s at the same time: the second submits to the first's service, and must not wait for it for ever."""
    with service.serving(settings) as second_to_none:
        assert second_to_none()
        with ExitStack() as first_ends:
            standing_by = first_ends.enter_context(service.serving(settings))
            assert not standing_by()
            second = first_ends.pop_all()
    assert not embedded.answers(settings.broker_url)
    with second:
        assert standing_by()
        assert embedded.answers(settings.broker_url)
    assert processes() == {}


def test_a_service_that_cannot_start_leaves_nothing(settings, processes):
    (settings.home / "logs").mkdir()
    (settings.home / "redis" / "appendonly.aof").mkdir(parents=True)
    with pytest.raises(Misconfigured), Service(settings):
        pass
    assert processes() == {}
