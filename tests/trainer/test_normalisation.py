"""The fast normalisation computes what Keras's own does, and what serves is Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from slicewise.trainer.network import build, serving
from slicewise.trainer.normalisation import Normalisation

BATCH = np.random.default_rng(0).normal(3, 2, (8, 12, 12, 5)).astype(np.float32)


@pytest.fixture
def pair() -> tuple[keras.Layer, keras.Layer]:
    """Ours and Keras's, with the same gamma and beta."""
    made = Normalisation(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    for layer in made:
        layer.build(BATCH.shape)
        layer.gamma.assign(np.linspace(0.5, 2, 5))
        layer.beta.assign(np.linspace(-1, 1, 5))
    return made


def test_trains_as_keras_does(pair):
    ours, theirs = (np.asarray(layer(BATCH, training=True)) for layer in pair)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for kept, expected in zip(*(layer.get_weights() for layer in pair), strict=True):
        # One kernel's variance is the unbiased one: a share of 1/1152 apart.
        np.testing.assert_allclose(kept, expected, rtol=2e-3)
    assert np.abs(pair[0].get_weights()[2] - 0.3).max() < 0.1


def test_answers_by_the_average_and_leaves_it(pair):
    before = pair[0].get_weights()
    ours, theirs = (np.asarray(layer(BATCH, training=False)) for layer in pair)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours - np.asarray(pair[1](BATCH, training=True))).max() > 0.1
    for kept, was in zip(pair[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(kept, was)


@pytest.mark.parametrize("name", ["residual", "hybrid"])
def test_what_serves_is_plain_and_says_the_same(name):
    network = build(name, 94)
    slices = np.random.default_rng(1).uniform(0, 255, (4, 94, 94, 3)).astype(np.float32)
    network(slices, training=True)
    served = serving(network)
    assert any(isinstance(layer, Normalisation) for layer in network.layers)
    assert not any(isinstance(layer, Normalisation) for layer in served.layers)
    assert [layer.name for layer in served.layers] == [layer.name for layer in network.layers]
    np.testing.assert_allclose(np.asarray(served(slices)), np.asarray(network(slices)), atol=1e-6)
