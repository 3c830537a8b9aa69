"""Starting a child process that never outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def start(
    arguments: Sequence[str | Path],
    *,
    output: IO[bytes] | int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: Ctrl-C reaches only the parent, which then stops it in order.

    Parameters
    ----------
    output
        Where its standard output and error go.

    Notes
    -----
    The kernel sends the child SIGTERM when its parent dies, however it dies: a killed ``slicewise up`` leaves
    no Redis behind to write the same append-only file as the next one's.
    """
    follow = follower()
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        preexec_fn=follow,  # noqa: PLW1509 (no other thread of ours runs yet; the call is async-signal-safe)
    )


def follower() -> Callable[[], None]:
    """Make, in a parent, what its child has to call first after the fork: it then gets SIGTERM when the parent dies."""
    parent, libc = os.getpid(), ctypes.CDLL(None, use_errno=True)

    def follow() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return follow
