"""Keras to ONNX, with the description inside."""

from __future__ import annotations

from collections.abc import Callable

import keras
import onnx
import tensorflow as tf
import tf2onnx

from slicewise.export import run
from slicewise.export.doubt import Familiar
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import SIZE
from slicewise.worker.model.bundle import DISTANCES, EVIDENCE, METADATA_KEY, PROBABILITIES, Description

OPSET = 17
NOTICE = "Research use only. Not a medical device: no result may guide the care of a patient."
_INPUT = "slices"


def convert(network: keras.Model, description: Description, familiar: Familiar | None = None) -> onnx.ModelProto:
    """Convert a network and attach what it says of itself.

    Parameters
    ----------
    network
        Input ``(N, 150, 150, 3) float32`` in [0, 255], output ``(N, len(labels)) float32`` probabilities. Where the answer
        is the mean of a map, the bundle has what the map says as a further output.
    familiar
        Where the features of known pictures lie: a further output is how far away a slice is.

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
    forward = _published(network) if isinstance(network, keras.Sequential) else _explained(network, familiar)
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


def _published(network: keras.Sequential) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    def forward(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        flowing = slices
        for layer in network.layers:
            if isinstance(layer, keras.layers.Flatten):
                # Keras's own asks for the batch size at run time, in seven nodes.
                flowing = tf.reshape(flowing, (-1, layer.output.shape[-1]))
            else:
                flowing = layer(flowing, training=False)
        return {PROBABILITIES: flowing}

    return forward


def _explained(network: keras.Model, familiar: Familiar | None) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """With what the answer rests on: it is the mean of a map, which the exported graph gives as well."""
    dense = network.get_layer(run.LOGITS)
    named = [network.get_layer(name).output for name in (run.FEATURE_MAP, run.FEATURES)]
    inner = keras.Model(network.input, [*named, network.output])

    def forward(slices: tf.Tensor) -> dict[str, tf.Tensor]:
        seen, features, answer = inner(slices, training=False)
        found = {PROBABILITIES: answer, EVIDENCE: tf.matmul(seen, dense.kernel) + dense.bias}
        if familiar:
            # As `Familiar.distances`.
            found[DISTANCES] = tf.linalg.matvec(features, familiar.direction) - familiar.middle
        return found

    return forward


def _renumber(graph: onnx.GraphProto) -> None:
    """Put nodes, and numbers for their names, in the order of their use: Keras's and tf2onnx's differ from time to time."""
    nodes = _in_order(graph)
    del graph.node[:]
    graph.node.extend(nodes)
    known: dict[str, str] = {"": "", **{value.name: value.name for value in (*graph.input, *graph.output)}}

    def plain(name: str) -> str:
        return known.setdefault(name, str(len(known)))

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


def _in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Every node after those whose outputs it takes, as one comes to them from the graph's outputs."""
    makers = {output: node for node in graph.node for output in node.output}
    ordered: dict[str, onnx.NodeProto] = {}

    def visit(name: str) -> None:
        node = makers.get(name)
        if node is not None and node.name not in ordered:
            for taken in node.input:
                visit(taken)
            ordered[node.name] = onnx.NodeProto.FromString(node.SerializeToString())

    for value in graph.output:
        visit(value.name)
    return list(ordered.values())
