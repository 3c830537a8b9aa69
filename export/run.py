"""The folder that a training run leaves: the trainer fills it, the exporter reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicewise.worker.errors import Misconfigured

FEATURE_MAP, FEATURES, LOGITS = "feature_map", "features", "logits"
"""Layers of a ``model.keras`` whose answer is the mean of a map: the last map, ``(N, h, w, channels)``, its mean, and the
dense layer that weighs it."""


@dataclass(frozen=True)
class Run:
    """Names of the files of one run.

    ``run.json`` says what was trained on what, ``checkpoint.keras`` is the state after the last finished epoch,
    ``model.keras`` the trained network without its optimiser, ``history.csv`` one row an epoch, ``metrics.json``
    what was measured on the validation pictures, ``doubt.npz`` when its answer is not to be given, and ``predictions.json`` the answer for each of them.
    """

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.keras"

    @property
    def model(self) -> Path:
        return self.folder / "model.keras"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def doubt(self) -> Path:
        return self.folder / "doubt.npz"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions.json"

    def read(self) -> dict[str, Any]:
        """The contents of ``run.json``.

        Raises
        ------
        Misconfigured
            The folder holds no run, or its ``run.json`` is damaged.
        """
        try:
            recorded = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise Misconfigured(f"{self.folder} holds no run: make one with 'slicewise train --output'") from None
        except ValueError as error:
            raise Misconfigured(f"{self.record} is damaged ({error}): train again into another folder") from error
        if not isinstance(recorded, dict):
            raise Misconfigured(f"{self.record} holds no JSON object: train again into another folder")
        return recorded


def make_folder(path: Path) -> None:
    """Make a folder to write into, with those above it.

    Raises
    ------
    Misconfigured
        It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be made ({error.strerror}): give another folder") from error


@contextmanager
def in_one_step(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place when the context ends well, and leaves nothing when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write readable JSON in one step: never half a file."""
    with in_one_step(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
