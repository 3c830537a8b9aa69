"""How fast, and when: a PACS has other things to do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from datetime import time as TimeOfDay  # noqa: N812 (its own name is the module's)

from slicewise.worker.stopping import Stop


class Stopped(Exception):
    """Somebody has asked to stop."""


class Night:
    """A part of the day, in local time: ``22:00-06:00``.

    Raises
    ------
    ValueError
        The text is none.
    """

    def __init__(self, text: str) -> None:
        found = re.fullmatch(r"(\d{1,2}:\d\d)-(\d{1,2}:\d\d)", text.strip())
        if not found:
            raise ValueError(text)
        self.begins, self.ends = (TimeOfDay.fromisoformat(found[n].rjust(5, "0")) for n in (1, 2))
        if self.begins == self.ends:
            raise ValueError(text)

    def __contains__(self, at: datetime) -> bool:
        if self.begins < self.ends:
            return self.begins <= at.time() < self.ends
        return at.time() >= self.begins or at.time() < self.ends

    def opens(self, at: datetime) -> datetime:
        """When it begins next, or `at` itself where it is night now."""
        if at in self:
            return at
        today = at.replace(hour=self.begins.hour, minute=self.begins.minute, second=0, microsecond=0)
        return today if today > at else today + timedelta(days=1)


class Pace:
    """Lets through so many instances a second, and only at night.

    Parameters
    ----------
    rate
        Instances a second; None knows no limit.
    stop
        Set by whoever wants to stop.
    say
        Told once, each time, until when is waited.
    """

    def __init__(
        self,
        *,
        rate: float | None = None,
        night: Night | None = None,
        stop: Stop | None = None,
        say: Callable[[str], None] = lambda _text: None,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate, self._night, self._say = rate, night, say
        self._stop = stop or Stop()
        self._now, self._clock = now, clock
        self._free = clock()

    @property
    def batch(self) -> int:
        """How many instances to ask for at once: about two seconds' worth, so that neither limit is overrun by much."""
        return 64 if self._rate is None else max(1, min(64, int(self._rate * 2)))

    def before(self, count: int) -> None:
        """Wait until so many instances may be asked for.

        Raises
        ------
        Stopped
            While it waited, or before.
        """
        told = False
        while self._night and self._now() not in self._night:
            if not told:
                self._say(f"waiting for the night: until {self._night.opens(self._now()):%Y-%m-%d %H:%M}")
                told = True
            self._wait(30.0)
        self._wait(self._free - self._clock())
        if self._rate:
            self._free = max(self._free, self._clock()) + count / self._rate

    def pause(self, seconds: float) -> None:
        """Wait before another try.

        Raises
        ------
        Stopped
        """
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped
