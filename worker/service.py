"""One process tree on one machine: private Redis and worker, started, watched and stopped together."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from slicewise.db import questions
from slicewise.db.engine import Database
from slicewise.db.errors import DatabaseError
from slicewise.worker.errors import Misconfigured
from slicewise.worker.queue import child, embedded
from slicewise.worker.settings import Settings

log = logging.getLogger(__name__)

_STOP_SECONDS = 30.0
_RESTART_SECONDS = 1.0

# A worker that dies this often without living this long has something wrong that a restart does not mend.
_MOST_QUICK_DEATHS = 5
_QUICK_SECONDS = 10.0

# A job is rung every 20 seconds while nobody takes it, and a network is loaded in less: so long a silence is a stall.
_STALLED_SECONDS = 120.0


@contextmanager
def claimed(home: Path) -> Iterator[bool]:
    """Take the home for this process tree; False when another `up` or `run` serves it already.

    The lock is the kernel's: it goes with the process, however that ends.

    Raises
    ------
    Misconfigured
        The home cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (home / "serving.lock").open("w")
    except OSError as error:
        raise Misconfigured(
            f"{home} cannot be used ({error.strerror}): set SLICEWISE_HOME to another folder"
        ) from error
    with lock as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def served(home: Path) -> bool:
    """Whether an `up` or `run` serves the home now."""
    with claimed(home) as free:
        return not free


@contextmanager
def serving(settings: Settings) -> Iterator[Callable[[], bool]]:
    """Serve the home; while another process does, stand by, and take its place when it ends.

    Yields
    ------
    callable
        To be called now and then. It starts again whatever has died, and says whether this process serves.
    """
    with ExitStack() as stack:
        own: list[Service] = []

        def watch() -> bool:
            if own:
                own[0].watch()
                return True
            with ExitStack() as attempt:
                if attempt.enter_context(claimed(settings.home)):
                    own.append(attempt.enter_context(Service(settings)))
                    stack.push(attempt.pop_all())
            return bool(own)

        if not watch():
            _upgrade(settings)  # the service that is being joined may have begun a moment ago
        yield watch


class Service:
    """A running Redis (where the broker is the embedded one) and worker.

    Use it as a context; leaving it stops what it started: the worker finishes or hands back its job first.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_log: IO[bytes] | None = None
        self._started = 0.0
        self._quick_deaths = 0
        self._listened = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Service:
        self._settings.logs.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(self._stop)
            _upgrade(self._settings)
            self._start_redis()
            self._worker_log = stack.enter_context((self._settings.logs / "worker.log").open("ab"))
            self._start_worker()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def watch(self) -> None:
        """Start again whatever has died or hangs; call it now and then.

        Raises
        ------
        Misconfigured
            The worker dies again and again as soon as it starts; its log is named.
        """
        if self._redis and self._redis.poll() is not None:
            log.warning("the embedded Redis ended with %s: starting it again", self._redis.returncode)
            self._start_redis()
            # Celery's reconnecting stalls now and then (celery #10205, #10302; seen here once in a few kills). A new
            # worker cannot: what the old one held goes on under a new lease.
            self._end(self._worker)
            self._start_worker()
        if self._worker and self._worker.poll() is not None:
            lived = time.monotonic() - self._started
            self._quick_deaths = self._quick_deaths + 1 if lived < _QUICK_SECONDS else 0
            if self._quick_deaths >= _MOST_QUICK_DEATHS:
                raise Misconfigured(f"the worker does not stay up: see {self._settings.logs / 'worker.log'}")
            log.warning("the worker ended with %s: starting it again", self._worker.returncode)
            time.sleep(_RESTART_SECONDS)
            self._start_worker()
        self._restart_a_stalled_worker()

    def _restart_a_stalled_worker(self) -> None:
        """A worker whose connection to the broker hangs looks alive; that its jobs wait unheard tells."""
        now = time.monotonic()
        if now - self._listened < _STALLED_SECONDS / 6 or now - self._started < _STALLED_SECONDS:
            return
        self._listened = now
        database = Database(self._settings.database_url)
        try:
            with database.reading() as session:
                unheard = questions.unheard(session, _STALLED_SECONDS)
        except DatabaseError as error:
            # Without the database no worker can work either: a new one would not help.
            log.warning("%s", error)
            return
        finally:
            database.close()
        if unheard:
            log.warning("%d jobs wait and the worker takes none: starting it again", unheard)
            self._end(self._worker)
            self._start_worker()

    def _start_redis(self) -> None:
        if self._settings.embedded:
            self._redis = embedded.start(self._settings.home, self._settings.logs / "redis.log")

    def _start_worker(self) -> None:
        self._started = time.monotonic()
        assert self._worker_log
        self._worker = child.start(
            [sys.executable, "-P", "-m", "slicewise.worker.cli", "worker"],
            output=self._worker_log,
            environment=_environment(self._settings),
        )

    def _stop(self) -> None:
        self._end(self._worker)
        self._end(self._redis)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None) -> None:
        """Ask a child to end, then make it."""
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _upgrade(settings: Settings) -> None:
    database = Database(settings.database_url)
    database.upgrade()
    database.close()


def _environment(settings: Settings) -> dict[str, str]:
    """This process's settings, spelled out for a child."""
    set_ones = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    spelled = {f"SLICEWISE_{name.upper()}": str(value) for name, value in set_ones.items() if value is not None}
    return {**os.environ, **spelled}
