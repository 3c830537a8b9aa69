"""The networks that can be trained: the published one, layer for layer, and smaller ones of today's make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers, ops

from slicewise.export.run import FEATURE_MAP, FEATURES, LOGITS
from slicewise.trainer.data import LABELS
from slicewise.trainer.normalisation import Normalisation
from slicewise.worker.errors import Misconfigured


def build(name: str, size: int = 150, dropout: float = 0.3, precision: str = "float32") -> keras.Model:
    """Build a network by its name.

    Parameters
    ----------
    name
        One of `slicewise.trainer.recipe.NETWORKS`.
    size
        Side of the square input in pixels, at least 94. Only 150 can be exported.
    dropout
        Rate of every dropout layer, in [0, 1).
    precision
        One of `slicewise.trainer.recipe.PRECISIONS`. With ``bfloat16``, weights, logits and answers are float32 still.

    Returns
    -------
    keras.Model
        Input ``(N, size, size, 3) float32`` in [0, 255], scaled to [0, 1] inside the network; output
        ``(N, 4) float32``, probabilities in the order of `slicewise.trainer.data.LABELS`.
    """
    makers: dict[str, Callable[[int, float], keras.Model]] = {
        "reference": reference,
        "residual": residual,
        "hybrid": hybrid,
    }
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else precision)
    try:
        return makers[name](size, dropout)
    finally:
        keras.config.set_dtype_policy(before)


def reference(size: int = 150, dropout: float = 0.3) -> keras.Sequential:
    """Build the reference network: 4,447,044 parameters, 2.3 GFLOP a slice at 150x150.

    A smaller one is cheap to train and hands its weights on through `transfer`.

    Returns
    -------
    keras.Sequential
        As `build`.

    Notes
    -----
    He initialisers: with Keras's default (Glorot) the network sits at ln(4) for four epochs and more.
    """

    def conv(filters: int) -> keras.Layer:
        return layers.Conv2D(filters, 3, activation="relu", kernel_initializer="he_normal")

    def drop() -> keras.Layer:
        return layers.Dropout(dropout)

    def pool() -> keras.Layer:
        return layers.MaxPooling2D(2)

    def dense(units: int) -> keras.Layer:
        return layers.Dense(units, activation="relu", kernel_initializer="he_normal")

    return keras.Sequential(
        [
            keras.Input((size, size, 3), name="slices"),
            layers.Rescaling(1 / 255, name="unit_range"),
            *(conv(32), conv(64), pool(), drop()),
            *(conv(64), conv(64), drop(), pool(), drop()),
            *(conv(128), conv(128), conv(128), pool(), drop()),
            *(conv(128), conv(256), pool(), drop()),
            layers.Flatten(),
            *(dense(512), dense(512), drop()),
            layers.Dense(len(LABELS), activation="softmax", name="probabilities", dtype="float32"),
        ],
        name="reference",
    )


def residual(size: int = 150, dropout: float = 0.3) -> keras.Model:
    """Build a small residual CNN: 1,352,292 parameters, 0.44 GFLOP a slice at 150x150.

    He et al. 2015, with the shortcut of He et al. 2018 (ResNet-D). It answers by the weighed mean of its last map, so what
    each place of the map says for a class can be shown as it is (class activation mapping, Zhou et al. 2016).

    Returns
    -------
    keras.Model
        As `build`.
    """
    slices, flowing = _stem(size)
    for filters, stride in ((48, 2), (96, 2), (192, 2), (192, 1)):
        flowing = _block(flowing, filters, stride)
    return _answering("residual", slices, flowing, dropout)


def hybrid(size: int = 150, dropout: float = 0.3) -> keras.Model:
    """Build a small CNN whose last stage is a transformer: 1,287,780 parameters, 0.44 GFLOP a slice at 150x150.

    Convolutions first, then attention between the places of the last map, with batch normalisation throughout, which
    costs nothing when it serves (LeViT, Graham et al. 2021). There is no embedding of positions: padding tells them
    (Islam et al. 2020).

    Returns
    -------
    keras.Model
        As `build`.
    """
    slices, flowing = _stem(size)
    for filters in (48, 96, 192):
        flowing = _block(flowing, filters, 2)
    for _ in range(2):
        flowing = _attention(flowing)
    return _answering("hybrid", slices, flowing, dropout)


def _stem(size: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    slices = keras.Input((size, size, 3), name="slices")
    flowing = layers.Rescaling(1 / 255, name="unit_range")(slices)
    return slices, layers.ReLU()(_convolution(flowing, 32, 3, 2))


def _convolution(flowing: keras.KerasTensor, filters: int, side: int, stride: int = 1) -> keras.KerasTensor:
    flowing = layers.Conv2D(filters, side, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(
        flowing
    )
    return Normalisation(momentum=0.98)(flowing)


def _block(flowing: keras.KerasTensor, filters: int, stride: int) -> keras.KerasTensor:
    """Two convolutions beside a shortcut."""
    shortcut = flowing
    if stride > 1:
        shortcut = layers.AveragePooling2D(stride, padding="same")(shortcut)
    if shortcut.shape[-1] != filters:
        shortcut = _convolution(shortcut, filters, 1)
    flowing = layers.ReLU()(_convolution(flowing, filters, 3, stride))
    return layers.ReLU()(layers.Add()([_convolution(flowing, filters, 3), shortcut]))


def _attention(flowing: keras.KerasTensor, heads: int = 6) -> keras.KerasTensor:
    """Attention between all places, then two dense layers, each beside a shortcut."""
    height, width, channels = flowing.shape[1:]
    joined = layers.Reshape((height * width, 3, heads, channels // heads))(_convolution(flowing, 3 * channels, 1))
    # (N, heads, places, channels of a head)
    asked, known, said = (ops.transpose(joined[:, :, part], (0, 2, 1, 3)) for part in range(3))
    likeness = ops.matmul(asked, ops.transpose(known, (0, 1, 3, 2))) / math.sqrt(channels // heads)
    heard = ops.transpose(ops.matmul(layers.Softmax()(likeness), said), (0, 2, 1, 3))
    heard = layers.ReLU()(layers.Reshape((height, width, channels))(heard))
    flowing = layers.Add()([flowing, _convolution(heard, channels, 1)])
    wide = layers.ReLU()(_convolution(flowing, 2 * channels, 1))
    return layers.Add()([flowing, _convolution(wide, channels, 1)])


def _answering(name: str, slices: keras.KerasTensor, feature_map: keras.KerasTensor, dropout: float) -> keras.Model:
    feature_map = layers.Identity(name=FEATURE_MAP)(_weighed(feature_map))
    features = layers.GlobalAveragePooling2D(name=FEATURES)(feature_map)
    logits = layers.Dense(len(LABELS), name=LOGITS, dtype="float32")(layers.Dropout(dropout)(features))
    return keras.Model(slices, layers.Softmax(name="probabilities", dtype="float32")(logits), name=name)


def _weighed(feature_map: keras.KerasTensor) -> keras.KerasTensor:
    """The map times what each of its places counts for, 1 on average (attention pooling, Ilse et al. 2018).

    By a plain mean, a mass that fills four places of a hundred hardly counts beside where in the head the slice lies. It
    begins as the plain mean.
    """
    height, width, _ = feature_map.shape[1:]
    weights = layers.Conv2D(1, 1, use_bias=False, kernel_initializer="zeros", name="attention")(feature_map)
    weights = layers.Softmax(axis=1)(layers.Reshape((height * width, 1))(weights))
    return layers.Multiply()(
        [feature_map, layers.Reshape((height, width, 1))(layers.Rescaling(height * width)(weights))]
    )


def serving(network: keras.Model) -> keras.Model:
    """The same network, with its weights, as it serves: of Keras's own layers and in float32, whatever it was trained in."""

    def plain(layer: keras.Layer) -> keras.Layer:
        kind = layers.BatchNormalization if isinstance(layer, Normalisation) else type(layer)
        config = layer.get_config()
        # Operations, which clone_model hands over too, have no dtype.
        return kind.from_config(config | {"dtype": "float32"} if "dtype" in config else config)

    served = keras.models.clone_model(network, clone_function=plain)
    served.set_weights(network.get_weights())
    return served


def adjust(network: keras.Model, adjustment: Sequence[float]) -> None:
    """Add to the logit of each class, in the order of `slicewise.trainer.data.LABELS` (Menon et al. 2021)."""
    last = next(layer for layer in reversed(network.layers) if isinstance(layer, layers.Dense))
    last.bias.assign(np.asarray(last.bias.value) + np.asarray(adjustment, np.float32))


def transfer(source: keras.Model, target: keras.Model) -> None:
    """Copy the weights of a network trained at another input size into `target`.

    Progressive resizing (EfficientNetV2, Tan & Le 2021, section 4): most of the learning is done on small
    pictures. Every kernel fits as it is but the first dense one, whose inputs are the positions of the last
    feature map: it is spread evenly over the larger map, so that `target` starts from the mean over it.

    Raises
    ------
    Misconfigured
        They are two different networks.
    """
    if source.name != target.name:
        raise Misconfigured(
            f"a network '{target.name}' cannot begin from a '{source.name}': give --network {source.name}"
        )
    for old, new in zip(source.weights, target.weights, strict=True):
        value = np.asarray(old.value)
        if old.shape != new.shape:
            channels = source.layers[_before_flatten(source)].output.shape[-1]
            small = value.reshape(-1, channels, value.shape[1]).mean(axis=0)
            positions = new.shape[0] // channels
            value = np.tile(small, (positions, 1)) * (value.shape[0] / channels / positions)
        new.assign(value)


def _before_flatten(network: keras.Sequential) -> int:
    return next(i for i, layer in enumerate(network.layers) if isinstance(layer, layers.Flatten)) - 1
