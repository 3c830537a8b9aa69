"""The Celery shell: settings, the one task, and the sweeper that rings again.

``celery -A slicewise.worker.queue.app worker`` works, but `slicewise worker` sets the pool and the lanes too.
"""

from __future__ import annotations

import logging
import mmap
from functools import cache
from typing import Any

from celery import Celery, bootsteps
from celery.signals import setup_logging, worker_shutting_down
from kombu import Queue
from kombu.exceptions import OperationalError

from slicewise.db import questions, writes
from slicewise.db.engine import Database
from slicewise.db.records import Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.spool import Spool
from slicewise.worker.queue import owner, transport
from slicewise.worker.queue.work import Work
from slicewise.worker.settings import Settings

log = logging.getLogger(__name__)

# A task that is still running when its message becomes visible again would run twice at a time, so the
# visibility timeout lies above the hard limit, and the limit far above a turn (Work hands back long before).
_TIME_LIMIT_SECONDS = 600
_VISIBILITY_SECONDS = 900

# How long the broker may take to answer, and how often its silent connections are looked at.
_ANSWER_SECONDS = 15
_HEALTH_SECONDS = 10

_SWEEP_SECONDS = 2.0
_SILENT_SECONDS = 20.0
_TIDY_SECONDS = 3600.0

# More in a lane, and the sweeper rings no further: workers are awake.
_MOST_BELLS = 200


def _configuration() -> dict[str, Any]:
    """Read when the application is first used, not when it is imported."""
    settings = Settings.from_environment()
    return {
        "broker_url": settings.broker_url,
        "broker_connection_retry_on_startup": True,
        # For ever: by default a worker ends after the hundredth try.
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY_SECONDS,
            # By default a dead worker's message may take 100 s longer than its timeout (measured).
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "health_check_interval": _HEALTH_SECONDS,
            # A firewall that has forgotten a connection tells nobody: without these a worker waits on it for ever (measured),
            # and kombu's own look at whether its connections still answer never gets its turn.
            "socket_timeout": _ANSWER_SECONDS,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            # One more try to connect, at once. By default a ring at a broker that is away takes 6 s (measured), and
            # `broker_connection_retry` is what a worker goes by.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "global_keyprefix": "slicewise:",
        },
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_time_limit": _TIME_LIMIT_SECONDS,
        "task_default_queue": Lane.ROUTINE,
        "task_queues": [Queue(lane.value) for lane in Lane],
        "task_create_missing_queues": False,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        # With it on, a restart of Redis lost the running task in 3 of 3 trials; Celery 6 will turn it on.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "timezone": "UTC",
    }


transport.install()
app = Celery("slicewise", set_as_current=False)
app.add_defaults(_configuration)


# One byte that the worker's children share with it: set when it is asked to stop, so that they hand back what they
# hold. A signal would not do: Celery tells its children nothing until their tasks have ended.
_stopping = mmap.mmap(-1, 1)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_options: Any) -> None:
    _stopping[0] = 1


@cache
def _work() -> Work:
    # Once per process, on its first task: after the fork.
    return Work(Settings.from_environment(), stopping=lambda: bool(_stopping[0]))


@app.task(name="slicewise.classify", bind=True)  # type: ignore[untyped-decorator]
def classify(self: Any, job_id: int) -> None:
    """Work on a job. May run twice, or for a job that is done: nobody notices."""
    for unfinished in _work().on_job(job_id):
        ring(unfinished, Lane(self.request.delivery_info["routing_key"]))


def ring(job_id: int, lane: Lane) -> None:
    """Put a job's key on its lane's queue.

    Raises
    ------
    Retryable
        The broker is away.
    """
    try:
        # Tried once: the sweeper rings again, and whoever submits should not wait for a broker that is away.
        classify.apply_async((job_id,), queue=lane.value, retry=False)
    except OperationalError as error:
        raise Retryable("the broker does not answer") from error


def sweep(settings: Settings) -> int:
    """Close jobs that have been quiet, and ring those that wait unheard or whose worker is gone; how many.

    Where bells enough hang on a lane already, none is added: they are heard one after the other, and whoever hears one
    takes further jobs of its lane. Otherwise a night's backlog, rung again and again, would fill Redis (measured: 300,000 bells
    for 5,000 jobs).
    """
    database = Database(settings.database_url)
    try:
        with database.reading() as session:
            quiet = questions.quiet_jobs(session)
        if quiet:
            with database.writing() as session:
                writes.close(session)
        return sum(_sweep_lane(database, lane) for lane in Lane)
    finally:
        # No connection stays open: a child forked later must not inherit one (SQLite's locks are per process).
        database.close()


def _sweep_lane(database: Database, lane: Lane) -> int:
    with database.reading() as session:
        gone = owner.abandoned(questions.lease_owners(session))
        due = writes.due(session, lane, _SILENT_SECONDS, gone, limit=_MOST_BELLS)
    # Between two transactions: a slow broker must not keep every other writer waiting.
    due = due[: max(0, _MOST_BELLS - bells(lane))] if due else []
    for key in due:
        ring(key, lane)
    if due:
        with database.writing() as session:
            writes.rung(session, due)
    return len(due)


def bells(lane: Lane) -> int:
    """How many bells of a lane nobody has heard yet.

    Raises
    ------
    Retryable
        The broker is away.
    """
    with app.connection_or_acquire() as connection:
        try:
            return int(connection.default_channel.queue_declare(lane.value).message_count)
        except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
            raise Retryable("the broker does not answer") from error


class Sweeper(bootsteps.StartStopStep):
    """Sweeps from the worker's own event loop: no thread that a fork could catch holding a lock."""

    requires = ("celery.worker.components:Timer",)

    def start(self, parent: Any) -> None:
        self._timers = [
            parent.timer.call_repeatedly(_SWEEP_SECONDS, self._sweep),
            parent.timer.call_repeatedly(_TIDY_SECONDS, self._tidy),
        ]
        self._tidy()

    def stop(self, parent: Any) -> None:
        for timer in self._timers:
            timer.cancel()

    def _tidy(self) -> None:
        try:
            removed = Spool(Settings.from_environment().spool).tidy()
        except OSError as error:
            log.warning("the spool cannot be tidied: %s", error.strerror)
            return
        if removed:
            log.info("%d files removed that killed processes had left half written", removed)

    def _sweep(self) -> None:
        try:
            sweep(Settings.from_environment())
        except Exception as error:  # noqa: BLE001
            # The timer's boundary: the database or the broker is away; the next sweep tries again.
            log.warning("sweep failed: %s", type(error).__name__)


app.steps["worker"].add(Sweeper)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _plain_logs(**_options: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s")
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
