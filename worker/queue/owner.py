"""Who holds a lease: a name that tells whether its process still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path


def here() -> str:
    """Name this process: ``host|boot|pid namespace|pid|start time``. The last four make it unique for ever."""
    return f"{_machine()}|{os.getpid()}|{_start_time(os.getpid())}"


def abandoned(owners: Iterable[str]) -> list[str]:
    """Those of `owners` that ran on this machine and are no longer alive.

    Of another machine's owners nothing is known: their leases have to run out.
    """
    machine = _machine()
    gone = []
    for owner in owners:
        where, _, process = owner.rpartition("|")[0].rpartition("|")
        started = owner.rpartition("|")[2]
        if where == machine and _start_time(int(process)) != started:
            gone.append(owner)
    return gone


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()[:40]}|{boot[:13]}|{Path('/proc/self/ns/pid').readlink()}"


def _start_time(pid: int) -> str:
    """Start of a process in clock ticks since boot (proc(5), stat field 22); empty if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
