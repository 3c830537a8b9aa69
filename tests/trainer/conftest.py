"""A labelled data set made of numbers, and a place for what Keras and matplotlib want to keep."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_KEPT = tempfile.TemporaryDirectory(prefix="sw")
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=_KEPT.name, MPLCONFIGDIR=_KEPT.name)

FOLDERS = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")


def head(label: int, seed: int) -> np.ndarray:
    """``(120, 100) uint8``: an ellipse with a texture, and a disc whose place depends on the class."""
    random = np.random.default_rng((label, seed))
    y, x = np.mgrid[-1:1:120j, -1:1:100j]
    inside = np.hypot(x / 0.8, y / 0.9) < 1
    disc = np.hypot(x - 0.35 * np.cos(label * np.pi / 2), y - 0.35 * np.sin(label * np.pi / 2)) < 0.2
    grey = inside * (90 + 30 * np.sin(8 * x + seed) * np.cos(6 * y)) + 100 * disc
    return np.clip(grey + random.normal(0, 8, grey.shape), 0, 255).astype(np.uint8)


def write_data_set(root: Path, per_class: int, parts: tuple[str, ...] = ("",)) -> Path:
    for part in parts:
        for label, folder in enumerate(FOLDERS):
            (root / part / folder).mkdir(parents=True)
            for number in range(per_class):
                picture = Image.fromarray(head(label, number + 1000 * len(part)))
                picture.save(root / part / folder / f"image({number}).jpg", quality=95)
    return root


@pytest.fixture(scope="session")
def pristine_data_set(tmp_path_factory) -> Path:
    """20 pictures, 5 of each class, without Training and Testing; not to be changed."""
    return write_data_set(tmp_path_factory.mktemp("data") / "heads", 5)


@pytest.fixture
def data_set(pristine_data_set, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(pristine_data_set, tmp_path / "heads")


@pytest.fixture(name="write_data_set")
def _write_data_set():
    return write_data_set
