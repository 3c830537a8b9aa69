"""Calibration, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from slicewise.trainer import calibration


def test_expected_calibration_error_by_hand():
    # Two bins of ten: (0.8, 0.8, 0.9, 0.9), 3 of 4 right; (0.55, 0.55), none right.
    confidence = np.array([0.81, 0.81, 0.89, 0.89, 0.55, 0.55])
    correct = np.array([1, 1, 1, 0, 0, 0], bool)
    counts, means, accuracies = calibration.reliability(confidence, correct, 10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 4, 0]
    assert (means[8], accuracies[8]) == (pytest.approx(0.85), 0.75)
    assert np.isnan(means[0])
    found = calibration.expected_calibration_error(confidence, correct, 10)
    assert found == pytest.approx((4 * 0.10 + 2 * 0.55) / 6)


def test_who_is_always_sure_and_right_has_no_error():
    correct = np.ones(5, bool)
    assert calibration.expected_calibration_error(np.ones(5), correct) == 0
    assert calibration.brier(np.eye(4)[[0, 1]], np.array([0, 1])) == 0
    assert calibration.brier(np.eye(4)[[0, 1]], np.array([1, 0])) == 2
    assert calibration.brier(np.full((3, 4), 0.25), np.array([0, 1, 2])) == 0.75


def test_risk_falls_where_the_doubtful_are_not_answered():
    confidence = np.array([0.5, 0.9, 0.6, 0.8])
    correct = np.array([0, 1, 1, 1], bool)
    coverage, risk = calibration.risk_coverage(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == [0, 0, 0, 0.25]


def test_figures():
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]], np.float32)
    told = calibration.figures(probabilities, np.array([0, 1, 1]))
    assert told["brier"] == pytest.approx((2 * 0.09 + 2 * 0.36 + 2 * 0.04) / 3)
    assert told["risk_at_coverage"]["1"] == pytest.approx(1 / 3)
    assert told["risk_at_coverage"]["0.7"] == 0
    assert told["expected_calibration_error"] == pytest.approx((0.3 + 0.6 + 0.2) / 3)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def test_what_was_taken_from_a_class_is_given_back():
    """Labels are drawn by probabilities; a network says those of its logits less something."""
    random = np.random.default_rng(4)
    logits = random.normal(scale=2, size=(20_000, 3))
    truth = (random.random((20_000, 1)) > softmax(logits).cumsum(axis=1)).sum(axis=1)
    taken = np.array([0.2, 0.7, -0.9])
    found = calibration.logit_adjustment(softmax(logits - taken), truth, np.ones(20_000))
    np.testing.assert_allclose(found, taken, atol=0.06)
    # What counts nothing has no say.
    doubled = np.concatenate([truth, np.zeros(20_000, int)])
    weights = np.repeat([1.0, 0.0], 20_000)
    again = calibration.logit_adjustment(softmax(np.tile(logits - taken, (2, 1))), doubled, weights)
    np.testing.assert_allclose(again, found, atol=1e-12)


@pytest.mark.parametrize("sureness", [0.7, 1.0])
def test_an_adjustment_stays_finite(sureness):
    """Where one class is always missed, and one is not there."""
    said = np.where(np.eye(3)[np.repeat([0, 0], 500)] > 0, sureness, (1 - sureness) / 2)
    found = calibration.logit_adjustment(said, np.repeat([0, 1], 500), np.ones(1000))
    assert np.abs(found).max() < 20
    assert found[0] < found[1]
    assert found.mean() == pytest.approx(0)
