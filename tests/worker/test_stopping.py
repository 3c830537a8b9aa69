"""A wish to stop is heard whenever the signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from slicewise.worker.stopping import Stop

# A signal every 50 microseconds, in the middle of everything that `wait` does.
_UNDER_FIRE = """
import signal
from slicewise.worker.stopping import Stop
stop = Stop()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
for _ in range(20_000):
    stop = Stop()
    stop.wait(0.00001)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_no_signal_comes_at_a_bad_moment():
    """With an event, the process hangs in its own handler or dies of it."""
    subprocess.run([sys.executable, "-c", _UNDER_FIRE], check=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_long_wait(number):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    try:
        stop = Stop().on_signals()
        assert not stop.wait(0.01)
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        began = time.monotonic()
        assert stop.wait(30)
        assert time.monotonic() - began < 10
        assert stop.is_set()
    finally:
        for one, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(one, handler)
