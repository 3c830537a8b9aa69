"""Decoding one file in a process of its own: what it does to that process, it does to nothing else.

Slower by the start of an interpreter, so only a job whose last attempt died is worked through this way: the
file that killed it is found, refused, and its neighbours are assessed.
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.pipeline import Prepared
from slicewise.worker.pipeline import prepare as prepare_here

MAX_MEMORY_BYTES = 3 * 2**30
"""Address space of the decoding process."""

MAX_SECONDS = 60
"""Time for one file."""

# Each thread of a pool reserves address space: on a machine with many processors more than the limit allows.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def prepare(path: Path) -> Prepared:
    """Decode one spooled file in a child process with bounded memory and time.

    Returns
    -------
    Prepared
        As `slicewise.worker.pipeline.prepare`; a refusal ``killed_the_worker`` where the child died or was stopped.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", "slicewise.worker.isolated", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _killed(f"decoding took more than {MAX_SECONDS} s")
    if child.returncode == _BROKEN:
        return Prepared(failure="the decoding process could not start or report")
    if child.returncode:
        return _killed(f"the decoding process ended with {child.returncode}")
    # Our own child's pipe, never a queue: the one place where pickle is fit.
    prepared = pickle.loads(child.stdout)  # noqa: S301
    assert isinstance(prepared, Prepared)
    return prepared


def _killed(detail: str) -> Prepared:
    return Prepared(refusal=Refused(RefusalReason.KILLED_THE_WORKER, detail))


# What the interpreter itself ends with when an exception of ours gets out of it: no fault of the file's.
_BROKEN = 1
# What a decoder that ran out of its memory ends with.
_OUT_OF_MEMORY = 3


def _main(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parent's patience, should the parent be killed first.
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    prepared = prepare_here(Path(path))
    if prepared.failure and prepared.failure.startswith("MemoryError"):
        sys.exit(_OUT_OF_MEMORY)
    sys.stdout.buffer.write(pickle.dumps(prepared))


if __name__ == "__main__":
    _main(sys.argv[1])
