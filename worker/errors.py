"""Every error of slicewise that a caller may want to catch.

::

    SlicewiseError
    ├── Refused          this input will never be assessed; carries a RefusalReason
    ├── Retryable        it may work another time (a peer is away, a lease was lost)
    └── Misconfigured    a person has to change something; the message says what
"""

from __future__ import annotations

from slicewise.db.reasons import RefusalReason


class SlicewiseError(Exception):
    """Base of all errors raised on purpose."""


class Refused(SlicewiseError):
    """The input cannot be assessed, now or later.

    Parameters
    ----------
    reason
        The coded reason, stored in the database.
    detail
        One sentence for a person. Never a value from the header: it may hold a name.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        # Exactly the parameters: unpickling, on the way from an isolated process, calls with them again.
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class Retryable(SlicewiseError):
    """The work may succeed when tried again."""


class Misconfigured(SlicewiseError):
    """Something has to be installed, set or started by a person first."""
