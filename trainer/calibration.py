"""Whether a network means what it says: calibration, and what is won by keeping silent. NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15
"""Of equal width, as Guo et al. 2017 have it."""

# Below it a probability is as good as none.
_LEAST = 1e-6

_STEPS = 1000

_COVERAGES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, ...]:
    """Confidence and accuracy, bin by bin.

    Parameters
    ----------
    confidence
        ``(N,)`` largest probabilities, in [0, 1].
    correct
        ``(N,) bool``.

    Returns
    -------
    tuple of numpy.ndarray
        Counts ``(bins,) int64``, mean confidence and accuracy ``(bins,) float64``, NaN where a bin is empty.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(place, weights=confidence, minlength=bins) / counts
        return counts, means, np.bincount(place, weights=correct, minlength=bins) / counts


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over `reliability`'s bins, by their counts (Naeini et al. 2015)."""
    counts, means, accuracies = reliability(confidence, correct, bins)
    return float(np.nansum(counts * np.abs(means - accuracies)) / counts.sum())


def brier(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared distance of ``(N, classes)`` probabilities from the truth, summed over classes (Brier 1950): 0 to 2."""
    wanted = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - wanted) ** 2).sum(axis=1).mean())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What share is wrong where only the surest are answered (Geifman & El-Yaniv 2017).

    Returns
    -------
    tuple of numpy.ndarray
        Coverage, from 1/N to 1, and the share of wrong answers among those answered; both ``(N,)``.
    """
    wrong = ~correct[np.argsort(-confidence, kind="stable")]
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), np.cumsum(wrong) / answered


def logit_adjustment(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What to add to each class's logit for the least log loss (bias correction, Alexandari et al. 2020).

    Its parameters are those of `slicewise.trainer.doubt.fit_temperature`.

    Returns
    -------
    numpy.ndarray
        ``(classes,) float64``, of mean 0. A normal prior of deviation 1, which weighs as much as one picture, keeps it finite where a class is
        never missed.
    """
    logits = np.log(np.clip(probabilities.astype(float), _LEAST, None))
    classes = logits.shape[1]
    wanted, added = np.eye(classes)[truth], np.zeros(classes)
    # The log loss curves nowhere more than this, so no step can overshoot (Böhning 1992).
    curve = weights.sum() / 2 * (np.eye(classes) - 1 / classes) + np.eye(classes)
    for _ in range(_STEPS):
        said = np.exp(logits + added)
        said /= said.sum(axis=1, keepdims=True)
        added = added - np.linalg.solve(curve, weights @ (said - wanted) + added)
    return np.asarray(added - added.mean())


def figures(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Every figure of this module, ready for JSON.

    Parameters
    ----------
    probabilities
        ``(N, classes) float32``, N at least 1.
    truth
        ``(N,)`` indices of classes.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    risk = risk_coverage(confidence, correct)[1]
    return {
        "expected_calibration_error": expected_calibration_error(confidence, correct),
        "brier": brier(probabilities, truth),
        "risk_at_coverage": {f"{c:g}": float(risk[max(1, round(c * len(truth))) - 1]) for c in _COVERAGES},
    }
