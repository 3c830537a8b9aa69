"""How long the fuzz tests look: ``FUZZ_TIMES`` multiplies it, for ``make fuzz``."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """So many examples in a test run, more by hand."""
    return count * int(os.environ.get("FUZZ_TIMES", "1"))
