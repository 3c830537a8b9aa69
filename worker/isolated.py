"""Decoding one file in a process of its own: what it does to that process, it does to nothing else.

Slower by the start of an interpreter, so only a job whose last attempt died is worked through this way: the
file that killed it is found, refused, and its neighbours are assessed.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.pipeline import Prepared
from slicewise.worker.pipeline import prepare as prepare_here

MAX_MEMORY_BYTES = 3 * 2**30
"""Address space of the decoding process."""

MAX_CPU_SECONDS = 240
"""Processor time for one file. The largest that is read, 2,000 frames of JPEG 2000, takes 80 s."""

MAX_SECONDS = 540
"""Time on the clock. It ends before the task's own limit, and says nothing against the file: the machine was busy."""

# How a process ends through what it decodes. Any other signal came from outside: a person, a service manager, the
# kernel that wanted memory.
_OWN_FAULTS = {
    -number
    for number in (
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGXCPU,
        signal.SIGSYS,
        signal.SIGTRAP,
    )
}

# Each thread of a pool reserves address space: on a machine with many processors more than the limit allows.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def prepare(path: Path) -> Prepared:
    """Decode one spooled file in a child process with bounded memory and time.

    Returns
    -------
    Prepared
        As `slicewise.worker.pipeline.prepare`; a refusal ``killed_the_worker`` where the file made the child crash, run
        out of its memory or use up its processor time, and a failure where anything else ended it.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "slicewise.worker.isolated", str(path), str(MAX_CPU_SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Prepared(failure=f"decoding took more than {MAX_SECONDS} s")
    if child.returncode == _OUT_OF_MEMORY:
        return _killed(f"decoding needs more than {MAX_MEMORY_BYTES} bytes of memory")
    if child.returncode in _OWN_FAULTS:
        return _killed(f"the decoding process ended with {signal.Signals(-child.returncode).name}")
    if child.returncode:
        return Prepared(failure=f"the decoding process ended with {child.returncode}")
    # Our own child's pipe, never a queue: the one place where pickle is fit.
    prepared = pickle.loads(child.stdout)  # noqa: S301
    assert isinstance(prepared, Prepared)
    return prepared


def _killed(detail: str) -> Prepared:
    return Prepared(refusal=Refused(RefusalReason.KILLED_THE_WORKER, detail))


# What a decoder that ran out of its memory ends with.
_OUT_OF_MEMORY = 3


def _main(path: str, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The hard limit would end it by SIGKILL, which says nothing.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    prepared = prepare_here(Path(path))
    if prepared.failure and prepared.failure.startswith("MemoryError"):
        sys.exit(_OUT_OF_MEMORY)
    sys.stdout.buffer.write(pickle.dumps(prepared))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
