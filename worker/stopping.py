"""A wish to stop, which a signal may utter."""

from __future__ import annotations

import signal
import time

# How soon it is heard.
_TICK_SECONDS = 0.1


class Stop:
    """What `threading.Event` would be, if a signal handler might set one.

    It may not: a handler runs between two steps of the main thread, and where that was just entering the event's `wait`, the
    handler waits for a lock that is held by what it interrupts, for ever (seen: 1 in 60 with short waits).
    """

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        """Ask to stop."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether it was asked for."""
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Sleep, but not much beyond the wish; whether there is one."""
        ends = time.monotonic() + seconds
        while not self._asked and (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_SECONDS))
        return self._asked

    def on_signals(self) -> Stop:
        """Let SIGTERM and SIGINT ask; from the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.set())
        return self
