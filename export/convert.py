"""Keras to ONNX, with the description inside."""

from __future__ import annotations

import re

import keras
import onnx
import tensorflow as tf
import tf2onnx

from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import SIZE
from slicewise.worker.model.bundle import METADATA_KEY, Description

OPSET = 17
NOTICE = "Research use only. Not a medical device: no result may guide the care of a patient."
_INPUT, _OUTPUT = "slices", "probabilities"


def convert(network: keras.Sequential, description: Description) -> onnx.ModelProto:
    """Convert a network and attach what it says of itself.

    Parameters
    ----------
    network
        Input ``(N, 150, 150, 3) float32`` in [0, 255], output ``(N, len(labels)) float32`` probabilities.

    Returns
    -------
    onnx.ModelProto
        The same function, for any N. Its bytes, and so its SHA-256, depend on the weights, the description and the
        versions of the tools alone.

    Raises
    ------
    Misconfigured
        The network has another input or another number of classes than the description says.
    """
    expected = ((None, SIZE, SIZE, 3), (None, len(description.labels)))
    if (network.input_shape, network.output_shape) != expected:
        raise Misconfigured(
            f"the network maps {network.input_shape} to {network.output_shape}, a bundle with these labels maps "
            f"{expected[0]} to {expected[1]}: export the run it was trained in"
        )
    signature = [tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name=_INPUT)]

    def forward(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        flowing = slices
        for layer in network.layers:
            if isinstance(layer, keras.layers.Flatten):
                # Keras's own asks for the batch size at run time, in seven nodes.
                flowing = tf.reshape(flowing, (-1, layer.output.shape[-1]))
            else:
                flowing = layer(flowing, training=False)
        return {_OUTPUT: flowing}

    traced = tf.function(forward, input_signature=signature, autograph=False)
    # from_keras does not understand Keras 3.
    model: onnx.ModelProto = tf2onnx.convert.from_function(traced, input_signature=signature, opset=OPSET)[0]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    _renumber(model.graph)
    model.doc_string = NOTICE
    onnx.helper.set_model_props(model, {METADATA_KEY: description.to_json()})
    # tf2onnx leaves an operator that it cannot translate as it is; this does not let it pass.
    onnx.checker.check_model(model, full_check=True)
    return model


def _renumber(graph: onnx.GraphProto) -> None:
    """Number names in the order of their use: tf2onnx's own numbers, and its order, differ from time to time."""
    known: dict[str, str] = {}

    def plain(name: str) -> str:
        return known.setdefault(name, re.sub(r"__\d+", f"__{len(known)}", name))

    for node in graph.node:
        node.name = plain(node.name)
        node.input[:] = map(plain, node.input)
        node.output[:] = map(plain, node.output)
    weights = list(graph.initializer)
    for weight in weights:
        weight.name = plain(weight.name)
    order = list(known.values())
    del graph.initializer[:]
    graph.initializer.extend(sorted(weights, key=lambda weight: order.index(weight.name)))
    graph.ClearField("doc_string")
