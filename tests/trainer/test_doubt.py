"""Doubt is fitted so that confidence means what it says, and what is strange is told from what is known."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from slicewise.trainer import doubt, strangers
from slicewise.trainer.data import LABELS, Example, Rasters
from slicewise.trainer.network import reference, residual
from slicewise.worker.model.session import tempered

RANDOM = np.random.default_rng(4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_a_network_too_sure_is_found(temperature):
    """Labels are drawn by probabilities; a network says those of its logits times the temperature."""
    logits = RANDOM.normal(0, 1.5, (20_000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (honest.cumsum(axis=1) > RANDOM.random((len(honest), 1))).argmax(axis=1)
    said = np.exp(logits * temperature) / np.exp(logits * temperature).sum(axis=1, keepdims=True)
    found = doubt.fit_temperature(said.astype(np.float32), truth, np.ones(len(truth)))
    assert found == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(tempered(said.astype(np.float32), temperature), honest, atol=1e-5)


def test_near_copies_count_once():
    """One wrong picture outweighs its neighbours, a hundred copies of one right picture do not."""
    said = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    copies, truth = np.repeat(said, [100, 1], axis=0), np.array([0] * 100 + [1])
    once = doubt.fit_temperature(said, np.array([0, 1]), np.ones(2))
    assert doubt.fit_temperature(copies, truth, np.array([0.01] * 100 + [1.0])) == once == 5
    assert doubt.fit_temperature(copies, truth, np.ones(101)) < 1


@pytest.mark.parametrize(
    ("right", "least"),
    [([1] * 100, 0.0), ([1] * 50 + [0] * 50, 0.51), ([1] * 49 + [0, 1] * 25 + [0], 0.50), ([0] * 100, 1.0)],
    ids=["all right", "sure is right", "one in fifty may be wrong", "all wrong"],
)
def test_the_band_of_abstention(right, least):
    confidence = np.linspace(1.0, 0.01, 100)
    found = doubt.fit_abstention(confidence, np.array(right, bool), np.ones(100))
    assert found == pytest.approx(least, abs=0.011)
    given = confidence >= found
    assert not given.any() or 1 - np.array(right)[given].mean() <= doubt.MOST_WRONG
    assert given.any() == any(right)


@pytest.mark.parametrize(
    ("wrong", "given"),
    [(1, 100), (2, 100), (3, 97), (5, 97), (9, 97), (15, 81)],
    ids=["few wrong", "as many as may be", "the least sure three", "no more than three", "still", "too many to bear"],
)
def test_silence_has_its_bounds(wrong, given):
    """All that is wrong is among the twenty least sure."""
    right = np.ones(100, bool)
    right[[80, 83, 86, 89, 92, 95, 96, 97, 98, 99, 81, 82, 84, 85, 87][:wrong]] = False
    confidence = np.linspace(1.0, 0.01, 100)
    found = doubt.fit_abstention(confidence, right, np.ones(100))
    assert (confidence >= found).sum() == given


def pictures(count: int, start: int) -> Rasters:
    """Soft blobs whose place depends on the class."""
    made, examples = [], []
    y, x = np.mgrid[-1:1:150j, -1:1:150j]
    for n in range(start, start + count):
        label = n % 4
        angle = label * np.pi / 2 + RANDOM.normal(0, 0.1)
        grey = 200 * np.exp(-((x - 0.4 * np.cos(angle)) ** 2 + (y - 0.4 * np.sin(angle)) ** 2) / 0.05)
        made.append(np.clip(grey + RANDOM.normal(20, 4, grey.shape), 0, 255).astype(np.uint8))
        examples.append(Example(Path(f"{n}"), f"{n}", LABELS[label], "", f"g{n}"))
    return Rasters(np.stack(made), examples, [])


@pytest.fixture(scope="module")
def strange():
    """A network that has learned nothing, its doubt, and how far out it finds pictures."""
    keras.utils.set_random_seed(0)
    network, validation = residual(), pictures(100, 100)
    said = np.full((100, 4), 0.1, np.float32)
    said[np.arange(100), np.arange(100) % 4] = 0.7
    fitted = doubt.fit(network, pictures(48, 0), validation, said)
    reading = keras.Model(network.input, network.get_layer("features").output)

    def distances(some: Rasters) -> np.ndarray:
        colour = np.repeat(some.pixels[..., None], 3, axis=-1).astype(np.float32)
        return fitted.familiar.distances(reading.predict(colour, verbose=0))

    return fitted, distances, validation


def test_what_is_strange_lies_far_away(strange):
    fitted, distances, _ = strange
    familiar = fitted.familiar
    nothing = strangers.draw(40, pictures(8, 400).pixels, seed=3)
    assert familiar.unvouched < familiar.limit
    assert (distances(pictures(24, 300)) > familiar.limit).mean() < 0.1
    assert (distances(Rasters(nothing, [], [])) > familiar.limit).mean() > 0.9


def test_two_of_a_hundred_known_pictures_need_a_header(strange):
    fitted, distances, validation = strange
    far = distances(validation) > fitted.familiar.unvouched
    assert far.sum() == 2
    # They are part of the silence that is allowed, and no reason for more of it.
    assert fitted.abstain_below == 0


def test_the_reference_network_has_no_features():
    fitted = doubt.fit(reference(), pictures(4, 0), pictures(4, 4), np.eye(4, dtype=np.float32))
    assert fitted.familiar is None
    assert fitted.abstain_below == 0
