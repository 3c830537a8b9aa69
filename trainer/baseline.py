"""What a network has to beat: the nearest neighbour, which learns nothing, and the paper's own figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from slicewise.trainer.data import Rasters
from slicewise.trainer.evaluation import bootstrap_interval

PAPER = {
    "accuracy": 0.952,
    "classes": {
        "glioma": {"precision": 0.96, "recall": 0.94},
        "meningioma": {"precision": 0.97, "recall": 0.96},
        "no_tumor": {"precision": 0.93, "recall": 0.91},
        "pituitary": {"precision": 0.98, "recall": 0.97},
    },
}
"""What the reference paper reports for its random split, which near-copies straddle."""

_SIDE = 48
_ROWS = 512


def nearest(training: Rasters, validation: Rasters) -> np.ndarray:
    """``(N,) bool``: whether the picture that looks most alike, by Euclid on 48x48 grey thumbnails, has the right label."""
    known, asked = _thumbnails(training.pixels), _thumbnails(validation.pixels)
    # |a - b|² without |a|², which is the same for every b.
    lengths = (known**2).sum(axis=1)
    found = [
        (lengths - 2 * asked[start : start + _ROWS] @ known.T).argmin(axis=1) for start in range(0, len(asked), _ROWS)
    ]
    labels = np.array([example.label for example in training.examples])
    return np.asarray(labels[np.concatenate(found)] == [example.label for example in validation.examples])


def _thumbnails(pixels: np.ndarray) -> np.ndarray:
    small = [np.asarray(Image.fromarray(one).resize((_SIDE, _SIDE), Image.Resampling.BOX)) for one in pixels]
    return np.stack(small).reshape(len(small), -1).astype(np.float32)


def figures(correct: np.ndarray, validation: Rasters) -> dict[str, Any]:
    """Accuracy of `nearest`, with its interval, ready for JSON."""
    groups = [example.group for example in validation.examples]
    return {"accuracy": float(correct.mean()), "accuracy_95": list(bootstrap_interval(correct, groups))}
