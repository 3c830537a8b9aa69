"""The reference network: the published 150x150 CNN, layer for layer."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from slicewise.trainer.data import LABELS


def reference(size: int = 150, dropout: float = 0.3) -> keras.Sequential:
    """Build the reference network: 4,447,044 parameters at 150x150.

    Parameters
    ----------
    size : int
        Side of the square input in pixels. Only 150 can be exported; a smaller network (at least 94) is
        cheap to train and hands its weights on through `transfer`.
    dropout : float
        Rate of every dropout layer, in [0, 1).

    Returns
    -------
    keras.Sequential
        Input ``(N, size, size, 3) float32`` in [0, 255], scaled to [0, 1] inside the network; output
        ``(N, 4) float32``, probabilities in the order of `slicewise.trainer.data.LABELS`.

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
            layers.Dense(len(LABELS), activation="softmax", name="probabilities"),
        ],
        name="reference",
    )


def transfer(source: keras.Sequential, target: keras.Sequential) -> None:
    """Copy the weights of a network trained at another input size into `target`.

    Progressive resizing (EfficientNetV2, Tan & Le 2021, section 4): most of the learning is done on small
    pictures. Every kernel fits as it is but the first dense one, whose inputs are the positions of the last
    feature map: it is spread evenly over the larger map, so that `target` starts from the mean over it.
    """
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
