"""One line of a check-up: whether something is as it should be, and what to do if it is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`text` says what was seen; where it did not pass, also the remedy."""

    passed: bool
    text: str
