"""The reference network is the published one, layer for layer; the small ones are small, and answer by the mean of a map."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from slicewise.export.run import FEATURE_MAP, FEATURES, LOGITS
from slicewise.trainer.network import adjust, build, reference, residual, transfer
from slicewise.trainer.recipe import NETWORKS
from slicewise.worker.errors import Misconfigured

# Output shape without the batch, parameters: layers without parameters are those between them.
PUBLISHED = [
    ((148, 148, 32), 896),
    ((146, 146, 64), 18_496),
    ((71, 71, 64), 36_928),
    ((69, 69, 64), 36_928),
    ((32, 32, 128), 73_856),
    ((30, 30, 128), 147_584),
    ((28, 28, 128), 147_584),
    ((12, 12, 128), 147_584),
    ((10, 10, 256), 295_168),
    ((512,), 3_277_312),
    ((512,), 262_656),
    ((4,), 2_052),
]
ORDER = (
    "Rescaling Conv2D Conv2D MaxPooling2D Dropout Conv2D Conv2D Dropout MaxPooling2D Dropout "
    "Conv2D Conv2D Conv2D MaxPooling2D Dropout Conv2D Conv2D MaxPooling2D Dropout "
    "Flatten Dense Dense Dropout Dense"
)


@pytest.fixture(scope="module")
def network() -> keras.Sequential:
    return reference()


def test_layer_table(network):
    table = [(layer.output.shape[1:], layer.count_params()) for layer in network.layers if layer.count_params()]
    assert table == PUBLISHED
    assert network.count_params() == 4_447_044


def test_layers_stand_in_the_published_order(network):
    assert " ".join(type(layer).__name__ for layer in network.layers) == ORDER
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {(c.kernel_size, c.padding, c.activation.__name__) for c in convolutions} == {((3, 3), "valid", "relu")}
    assert next(layer for layer in network.layers if isinstance(layer, keras.layers.Flatten)).output.shape[1] == 6400


def test_pixels_are_scaled_inside_the_network(network):
    scaled = network.layers[0](np.array([[0.0, 255.0]], np.float32))
    np.testing.assert_allclose(scaled, [[0, 1]], rtol=1e-6)


def test_transfer_starts_from_the_mean_over_the_map(network):
    """The first dense layer of the larger network sees the mean over its map as the small one sees its single pixel."""
    small = reference(94)
    transfer(small, network)
    of_small, of_large = (
        next(layer for layer in n.layers if isinstance(layer, keras.layers.Dense)) for n in (small, network)
    )
    assert small.layers[18].output.shape[1:] == (1, 1, 256)
    feature_map = np.random.default_rng(0).random((2, 5, 5, 256), np.float32)
    mean = feature_map.mean(axis=(1, 2))
    np.testing.assert_allclose(of_large(feature_map.reshape(2, -1)), of_small(mean), rtol=1e-4, atol=1e-5)
    for old, new in zip(small.layers, network.layers, strict=True):
        if isinstance(old, keras.layers.Conv2D):
            np.testing.assert_array_equal(old.kernel, new.kernel)


@pytest.fixture(scope="module", params=["residual", "hybrid"])
def small(request) -> keras.Model:
    return build(request.param)


def test_a_small_network_answers_by_the_mean_of_its_map(small):
    """So what a place of the map says for a class adds up to the answer."""
    assert small.count_params() < 1_400_000
    assert small.count_params() == {"residual": 1_352_292, "hybrid": 1_287_780}[small.name]
    slices = np.random.default_rng(0).uniform(0, 255, (2, 150, 150, 3)).astype(np.float32)
    named = [small.get_layer(name).output for name in (FEATURE_MAP, FEATURES, LOGITS)]
    seen, features, logits = keras.Model(small.input, named)(slices)
    assert seen.shape == (2, 10, 10, 192)
    dense = small.get_layer(LOGITS)
    of_places = np.asarray(seen) @ np.asarray(dense.kernel) + np.asarray(dense.bias)
    np.testing.assert_allclose(of_places.mean(axis=(1, 2)), logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features, np.asarray(seen).mean(axis=(1, 2)), rtol=1e-3, atol=1e-5)
    answers = small(slices)
    np.testing.assert_allclose(answers, keras.ops.softmax(logits), rtol=1e-4, atol=1e-6)


def test_a_place_that_counts_for_more_says_more():
    """Attention begins as the plain mean, and its weights are 1 on average whatever it learns."""
    small = residual(94)
    slices = np.random.default_rng(0).uniform(0, 255, (2, 94, 94, 3)).astype(np.float32)
    attention = small.get_layer("attention")
    named = [attention.input, small.get_layer(FEATURE_MAP).output, small.get_layer(FEATURES).output]
    looking = keras.Model(small.input, named)
    before, seen, _ = map(np.asarray, looking(slices))
    np.testing.assert_allclose(seen, before, rtol=1e-5)
    attention.set_weights([np.random.default_rng(1).normal(0, 0.3, (1, 1, 192, 1))])
    before, seen, features = map(np.asarray, looking(slices))
    said = before @ attention.get_weights()[0].reshape(192)
    weights = np.exp(said) / np.exp(said).mean(axis=(1, 2), keepdims=True)
    assert weights.max() > 1.5
    np.testing.assert_allclose(seen, before * weights[..., None], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features, (before * weights[..., None]).mean(axis=(1, 2)), rtol=1e-3, atol=1e-4)


def test_every_name_is_a_network_of_that_name():
    assert [build(name, 94).name for name in NETWORKS] == list(NETWORKS)


def test_transfer_between_sizes_and_not_between_networks(network):
    first, second = residual(94), residual(110)
    transfer(first, second)
    for old, new in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(Misconfigured, match="--network residual"):
        transfer(first, network)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_that_is_missed_gets_more(name):
    network = build(name, size=94)
    slices = np.random.default_rng(0).uniform(0, 255, (3, 94, 94, 3)).astype(np.float32)
    before = network.predict_on_batch(slices)
    adjust(network, (0.0, 0.5, 0.0, -0.5))
    powers = before * np.exp([0, 0.5, 0, -0.5])
    np.testing.assert_allclose(network.predict_on_batch(slices), powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)
