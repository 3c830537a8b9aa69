"""Several processes on one port: a parent holds the listening socket, its children accept from it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from slicewise.worker.errors import Misconfigured
from slicewise.worker.queue import child
from slicewise.worker.stopping import Stop

log = logging.getLogger(__name__)

# Connections that wait until somebody accepts them.
_BACKLOG = 128

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.1

# One that dies this often without living this long has something wrong that a restart does not mend.
_MOST_QUICK_DEATHS = 5
_QUICK_SECONDS = 10.0


def listen(address: str, port: int) -> socket.socket:
    """A listening socket, for this process and its children.

    One socket, not one for each process by SO_REUSEPORT: a second server is told that the port is taken instead of being
    given half of the scans, a child that dies takes no waiting connection with it, and whichever is idle accepts.

    Raises
    ------
    Misconfigured
        The address is not here, or the port is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Named as TCP: only then does asyncio turn Nagle's algorithm off, which holds up every short answer for 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise Misconfigured(
            f"cannot listen on {address} port {port} ({error.strerror}): give another --port or --address"
        ) from error
    return listening


def keep_running(count: int, work: Callable[[], None], stop: Stop) -> None:
    """Run `count` processes, start again whatever dies, and end them all when told to stop.

    Parameters
    ----------
    work
        What each of them does; it ends by SIGTERM. Nothing that a fork does not carry may be open yet.

    Raises
    ------
    Misconfigured
        They die again and again as soon as they start.
    """
    children = {_start(work): time.monotonic() for _ in range(count)}
    quick_deaths = 0
    try:
        while not stop.wait(_LOOK_SECONDS):
            for number, status in _ended(list(children)):
                lived = time.monotonic() - children.pop(number)
                quick_deaths = quick_deaths + 1 if lived < _QUICK_SECONDS else 0
                if quick_deaths >= _MOST_QUICK_DEATHS:
                    raise Misconfigured("the processes do not stay up: what they said before says why")
                log.warning("a process ended with %s: starting another", os.waitstatus_to_exitcode(status))
                stop.wait(_RESTART_SECONDS)
                children[_start(work)] = time.monotonic()
    finally:
        _end(list(children))


def _start(work: Callable[[], None]) -> int:
    follow = child.follower()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        follow()
        work()
        status = 0
    finally:
        # Nothing of the parent's is unwound a second time.
        logging.shutdown()
        os._exit(status)


def _ended(children: list[int]) -> list[tuple[int, int]]:
    return [(number, status) for one in children for number, status in [os.waitpid(one, os.WNOHANG)] if number]


def _end(children: list[int]) -> None:
    """Ask them to end, then make them."""
    for number in children:
        os.kill(number, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while children and time.monotonic() < deadline:
        gone = {number for number, _ in _ended(children)}
        children = [number for number in children if number not in gone]
        time.sleep(_LOOK_SECONDS / 5)
    for number in children:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
