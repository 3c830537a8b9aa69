"""A bundle is written only where Keras and ONNX Runtime give the same answers on real slices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slicewise.export.run import in_one_step
from slicewise.worker.errors import Misconfigured, Refused
from slicewise.worker.imaging import colour, load, to_raster
from slicewise.worker.model import session
from slicewise.worker.model.bundle import METADATA_KEY, PROBABILITIES, Description
from slicewise.worker.model.verify import golden

if TYPE_CHECKING:
    import keras
    import onnx

BATCHES = (1, 7, 32)
"""Alone, a ragged batch, a full one: kernels differ by batch size."""

TOLERANCE = 1e-5
"""The largest difference of a probability that rounding explains."""


def real_slices(paths: Iterable[Path], count: int = max(BATCHES)) -> np.ndarray:
    """``(count, 150, 150) uint8``: slices from files and folders, spread over all of them and always the same.

    Raises
    ------
    Misconfigured
        Fewer than `count` slices can be assessed.
    """
    files = {file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    found: list[np.ndarray] = []
    for file in sorted(files, key=lambda file: hashlib.sha256(file.as_posix().encode()).digest()):
        if len(found) >= count:
            break
        try:
            found += [to_raster(decoded) for decoded in load(file.read_bytes())]
        except Refused:
            continue
    if len(found) < count:
        raise Misconfigured(
            f"{len(found)} real slices found in {len(files)} files, the comparison needs {count}: give --slices a "
            "folder of brain-MR pictures or DICOM files"
        )
    return np.stack(found[:count])


def differences(network: keras.Model, bundle: Path, rasters: np.ndarray) -> dict[int, float]:
    """The largest difference of a probability between Keras and ONNX Runtime (CPU), by batch size.

    Parameters
    ----------
    rasters : numpy.ndarray
        ``(N, 150, 150) uint8``. Every slice is scored at every batch size.
    """
    # Not before `slicewise.worker.model` has switched its telemetry off.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(bundle, options, providers=["CPUExecutionProvider"])
    Description.from_metadata(session.get_modelmeta().custom_metadata_map, bundle)
    name = session.get_inputs()[0].name
    slices = colour(rasters)
    found = {}
    for batch in BATCHES:
        parts = [slices[start : start + batch] for start in range(0, len(slices), batch)]
        apart = [
            np.abs(session.run([PROBABILITIES], {name: p})[0] - np.asarray(network(p, training=False))).max()
            for p in parts
        ]
        # Not max(): it may lose a NaN.
        found[batch] = float(np.max(apart))
    return found


def write(model: onnx.ModelProto, output: Path, network: keras.Model, rasters: np.ndarray) -> dict[int, float]:
    """Write a bundle, in one step, if it answers as the network does.

    Returns
    -------
    dict
        The largest difference at each batch size.

    Raises
    ------
    Misconfigured
        They disagree by more than `TOLERANCE`; `output` is as it was before.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(output) as partial:
        partial.write_bytes(model.SerializeToString())
        found = differences(network, partial, rasters)
        if not all(difference <= TOLERANCE for difference in found.values()):
            told = ", ".join(f"{difference:.1e} at batch {batch}" for batch, difference in found.items())
            raise Misconfigured(
                f"Keras and ONNX disagree ({told}; at most {TOLERANCE:.0e} is allowed) and {output} was not written: "
                "export with the locked versions of tensorflow, tf2onnx and onnxruntime (requirements/dev.txt)"
            )
        made = session.load(partial)
        said = replace(made.description, golden=golden(made))
        partial.write_bytes(described(model, said).SerializeToString())
    return found


def described(model: onnx.ModelProto, description: Description) -> onnx.ModelProto:
    """A copy that says what it is."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.helper.set_model_props(copy, {METADATA_KEY: description.to_json()})
    return copy
