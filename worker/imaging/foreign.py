"""The border with parsers and decoders that are not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused


@contextmanager
def refusing(reason: RefusalReason, detail: str) -> Iterator[None]:
    """Turn whatever a foreign parser or decoder raises into a refusal.

    Damaged files make pydicom, its plugins and Pillow raise nearly every built-in exception (tried by fuzzing), so
    no narrower list holds. The exception's own words stay behind: they quote the header.

    Two kinds pass: a lack of memory is the machine's state and not the file's, so the job is tried again, at last in
    a process of its own; and what is no `Exception` is not ours to stop.

    Parameters
    ----------
    reason, detail
        Of the refusal; the name of the exception is added to the detail.
    """
    try:
        yield
    except Refused:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise Refused(reason, f"{detail} ({type(error).__name__})") from None


def is_failure(error: BaseException) -> bool:
    """Whether a foreign call failed at its input, rather than being stopped from outside."""
    if isinstance(error, Exception):
        return not isinstance(error, MemoryError)
    # The panic of a decoder written in Rust (pylibjpeg-rle, tried) is no Exception, and its class cannot be imported.
    return type(error).__module__ == "pyo3_runtime"
