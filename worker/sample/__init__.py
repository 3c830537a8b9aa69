"""The sample study."""

from pathlib import Path

STUDY = Path(__file__).with_name("study")
