"""Ringing in a thread of its own: a broker that is away must not hold up who takes files in."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from slicewise.db.records import Lane
from slicewise.worker.errors import Retryable
from slicewise.worker.intake.submit import Bell

# A ring at a broker that does not even refuse waits for seconds; meanwhile the sweeper rings.
_DEAF_SECONDS = 30.0


class Bells:
    """A bell that returns at once. Use it as a context: leaving it waits until the last one has been rung.

    Parameters
    ----------
    ring
        The bell that may take its time, and may raise `Retryable`.
    clock
        Seconds that do not run backwards.
    """

    def __init__(self, ring: Bell, clock: Callable[[], float] = time.monotonic) -> None:
        self._ring, self._clock = ring, clock
        self._pool = ThreadPoolExecutor(1)
        self._deaf_until = clock()

    def __enter__(self) -> Bells:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._pool.shutdown()

    def __call__(self, job: int, lane: Lane) -> None:
        """Put a job's key on the queue, soon."""
        self._pool.submit(self._sound, job, lane)

    def _sound(self, job: int, lane: Lane) -> None:
        if self._clock() < self._deaf_until:
            return
        try:
            self._ring(job, lane)
        except Retryable:
            self._deaf_until = self._clock() + _DEAF_SECONDS
