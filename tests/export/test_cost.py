"""What a bundle costs, against what its layers say."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from slicewise.export.convert import convert
from slicewise.export.cost import cost
from slicewise.export.doubt import Familiar
from slicewise.export.quantise import quantise
from slicewise.worker.imaging import PREPROCESS_VERSION, to_raster
from slicewise.worker.imaging.scan import Slice
from slicewise.worker.model.bundle import Description
from slicewise.worker.model.store import REFERENCE
from tests.conftest import brain


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two convolutions and a dense layer, whose answer is the mean of a map."""
    inputs = keras.Input((150, 150, 3))
    flowing = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", bias_initializer="normal")(inputs)
    flowing = keras.layers.Conv2D(8, 5, padding="valid", use_bias=False, name="feature_map")(flowing)
    flowing = keras.layers.GlobalAveragePooling2D(name="features")(flowing)
    network = keras.Model(
        inputs,
        keras.layers.Softmax()(keras.layers.Dense(4, bias_initializer="normal", name="logits")(flowing)),
        name="small",
    )
    familiar = Familiar(np.ones(8, np.float32), 0.0, limit=1.0, unvouched=0.0)
    described = Description("small", ("a", "b", "c", "d"), PREPROCESS_VERSION, unfamiliar_above=1.0)
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    path.write_bytes(convert(network, described, familiar).SerializeToString())
    return path


def test_every_multiplication_counts_once(small):
    found = cost(small)
    first, second = 75 * 75 * 8 * 3 * 9, 71 * 71 * 8 * 8 * 25
    assert found.operations == 2 * (first + second + 8 * 4)
    # What tells how far a slice is from known ones is not what the answer depends on.
    assert found.parameters == (3 * 9 * 8 + 8) + 8 * 25 * 8 + (8 * 4 + 4)


def test_the_reference_network(tmp_path):
    found = cost(REFERENCE)
    assert found.parameters == 4_447_044
    assert found.operations == pytest.approx(2.3e9, rel=0.01)
    rasters = np.stack([to_raster(Slice(brain(seed), 1)) for seed in range(2, 26)])
    quantise(REFERENCE, tmp_path / "int8.onnx", rasters)
    assert cost(tmp_path / "int8.onnx") == found
