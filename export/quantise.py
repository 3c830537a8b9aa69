"""A bundle in 8-bit integers, for CPUs: written only where it says what the bundle in floating point says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from slicewise.export.graph import leading_to
from slicewise.export.run import in_one_step
from slicewise.export.verify import described
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import colour
from slicewise.worker.model import session
from slicewise.worker.model.gate import LEAST_AGREEMENT
from slicewise.worker.model.verify import golden

SLICES = 128
"""Slices that both are compared on; the ranges of activations are taken from the first half."""

VARIANT = "int8"

# Without a list the softmax is quantised, too, and probabilities miss a sum of 1 (measured).
_OPERATORS = ["Conv", "MatMul", "Gemm", "MaxPool", "AveragePool", "Relu", "Add", "Transpose", "Reshape"]

_SUM = 1e-5


@dataclass(frozen=True)
class Agreement:
    """How much a quantised bundle says what its original says, on `slices` slices.

    `labels` is the share of slices that keep their label, `largest` the largest change of a probability.
    """

    slices: int
    labels: float
    largest: float


def quantise(source: Path, output: Path, rasters: np.ndarray) -> Agreement:
    """Write a bundle whose convolutions and dense layers are in 8-bit integers, if it agrees with its source.

    Static, QDQ, per channel, ranges by their extremes: of what was tried the nearest to floating point.

    Parameters
    ----------
    rasters : numpy.ndarray
        ``(N, 150, 150) uint8`` real slices: the first half gives the ranges, and all of them are compared.

    Raises
    ------
    Misconfigured
        The source is no bundle, or is quantised already; or the two disagree, and `output` is as it was before.
    """
    exact = session.load(source)
    if exact.description.variant:
        raise Misconfigured(
            f"{source} is a variant already ({exact.description.variant}): give the bundle it was made of"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(output) as partial:
        model = _quantised(source, rasters[: len(rasters) // 2])
        # What was measured, and answered, was by the other one.
        said = replace(exact.description, variant=VARIANT, made_from=exact.sha256, metrics={}, golden=None)
        partial.write_bytes(described(model, said).SerializeToString())
        made = session.load(partial)
        found = compare(exact, made, rasters)
        if not found.labels >= LEAST_AGREEMENT:
            raise Misconfigured(
                f"in integers only {found.labels:.1%} of {found.slices} slices keep their label, and {output} was not written: "
                "give --slices that are like those it will see"
            )
        said = replace(said, metrics={"agreement": asdict(found)}, golden=golden(made))
        partial.write_bytes(described(model, said).SerializeToString())
    return found


def compare(exact: session.Model, quantised: session.Model, rasters: np.ndarray) -> Agreement:
    """Score slices with both.

    Raises
    ------
    Misconfigured
        Its probabilities do not sum to 1, or depend on the batch that a slice comes in.
    """
    before, after = (model.score(rasters).probabilities for model in (exact, quantised))
    alone = np.concatenate([quantised.score(raster[None]).probabilities for raster in rasters[: session.BATCH]])
    if not (np.abs(after.sum(axis=1) - 1) < _SUM).all() or not (np.abs(alone - after[: len(alone)]) < _SUM).all():
        raise Misconfigured(
            "its probabilities do not sum to 1, or differ with the batch: quantise it with the locked tools"
        )
    same = before.argmax(axis=1) == after.argmax(axis=1)
    return Agreement(len(rasters), float(same.mean()), float(np.abs(before - after).max()))


def _quantised(source: Path, rasters: np.ndarray) -> onnx.ModelProto:
    # Not before `slicewise.worker.model` has switched its telemetry off.
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Slices(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._batches: Iterator[dict[str, np.ndarray]] = ({name: colour(raster[None])} for raster in rasters)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder, "prepared.onnx"), Path(folder, "made.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            made,
            Slices(graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7 bits for weights: with 8, the 16-bit sums of CPUs without VNNI overflow, and answers depend on the CPU.
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_left_in_float(graph),
        )
        return onnx.load(made)


def _left_in_float(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that do not lead to the mean of the last map: answer, distance and evidence take hardly any time."""
    means = [node.output[0] for node in graph.node if node.op_type == "GlobalAveragePool"]
    if not means:
        return []
    leading = {node.name for node in leading_to(means, graph)}
    return [node.name for node in graph.node if node.name not in leading]
