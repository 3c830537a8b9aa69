"""What a bundle costs: its parameters, and the arithmetic that one slice takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from slicewise.export.graph import leading_to
from slicewise.worker.model.bundle import PROBABILITIES


@dataclass(frozen=True)
class Cost:
    """`parameters` that the answer depends on; `operations` a slice, a multiplication and an addition being two."""

    parameters: int
    operations: int


def cost(path: Path) -> Cost:
    """Count by the graph: convolutions and products of matrices, next to which everything else is small."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    # Shapes that stand in the file were inferred for any number of slices.
    model.graph.ClearField("value_info")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output, *graph.input)}
    shapes |= {weight.name: list(weight.dims) for weight in graph.initializer}
    # Shapes, and numbers that stand alone, are part of the plan.
    weights = {w.name: prod(w.dims) for w in graph.initializer if w.dims and w.data_type != onnx.TensorProto.INT64}
    parameters: dict[str, int] = {}
    operations = 0
    for node in leading_to([PROBABILITIES], graph):
        out = prod(shapes.get(node.output[0], []))
        if node.op_type == "Conv":
            operations += 2 * out * prod(shapes[node.input[1]][1:])
        elif node.op_type in {"MatMul", "Gemm"}:
            operations += 2 * out * shapes[node.input[0]][-1]
        # The steps of integers are no parameters.
        scaled = node.op_type in {"QuantizeLinear", "DequantizeLinear"}
        parameters |= {name: weights[name] for name in node.input[: 1 if scaled else None] if name in weights}
    return Cost(sum(parameters.values()), operations)


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]
