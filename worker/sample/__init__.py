"""The sample study: scans that may be redistributed, one or more for every outcome a run can have.

``study/`` holds the scans, ``manifest.csv`` what is to become of each, ``README.md`` where they come from.
"""

from __future__ import annotations

from pathlib import Path

STUDY: Path = Path(__file__).with_name("study")
"""Folder of the scans; `slicewise run` takes it as it is."""

__all__ = ["STUDY"]
