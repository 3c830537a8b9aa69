"""Every figure is drawn, whatever the answers were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slicewise.trainer import figures
from slicewise.trainer.data import LABELS, Example, Rasters
from slicewise.trainer.evaluation import Scored


def scored(truth: list[int], predicted: list[int]) -> Scored:
    examples = [Example(Path(f"{n}.jpg"), f"{n}.jpg", LABELS[t], "", str(n)) for n, t in enumerate(truth)]
    pixels = np.random.default_rng(0).integers(0, 255, (len(truth), 150, 150)).astype(np.uint8)
    probabilities = np.where(np.eye(4)[predicted] > 0, 0.7, 0.1).astype(np.float32)
    return Scored(LABELS, probabilities, Rasters(pixels, examples, []))


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [([0, 1, 2, 3] * 10, [0, 1, 2, 2] * 10), ([1, 1, 1], [1, 1, 1]), ([0], [3])],
    ids=["all classes", "one class, no mistake", "one picture"],
)
@pytest.mark.parametrize(
    "draw",
    [
        figures.draw_confusion,
        figures.draw_classes,
        figures.draw_calibration,
        figures.draw_samples,
        figures.draw_mistakes,
    ],
)
def test_evaluation_figures(tmp_path, draw, truth, predicted):
    draw(scored(truth, predicted), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 400
        assert picture.convert("L").getextrema()[0] < 128


@pytest.mark.parametrize("epochs", [1, 20])
def test_curves(tmp_path, epochs):
    history = [
        {"loss": 1 / n, "val_loss": 1.1 / n, "accuracy": 1 - 1 / n, "val_accuracy": 0.9} for n in range(1, epochs + 1)
    ]
    figures.draw_curves(history, tmp_path / "curves.png", 4)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 1000
