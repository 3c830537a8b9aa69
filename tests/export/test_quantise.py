"""An 8-bit variant says what its bundle says, or is not written."""

from __future__ import annotations

from dataclasses import asdict, replace

import keras
import numpy as np
import onnxruntime as ort
import pytest

from slicewise.export import quantise
from slicewise.export.convert import convert
from slicewise.export.doubt import Familiar
from slicewise.trainer.network import residual
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import PREPROCESS_VERSION, to_raster
from slicewise.worker.imaging.scan import Slice
from slicewise.worker.model import session, verify
from slicewise.worker.model.bundle import Description
from slicewise.worker.model.store import REFERENCE
from tests.conftest import brain

SURE = range(2, 66)
"""Painted slices that the network is sure enough of: any rounding may change the label of the others."""


@pytest.fixture(scope="module")
def rasters() -> np.ndarray:
    return np.stack([to_raster(Slice(brain(seed), 1)) for seed in SURE[:24]])


@pytest.fixture(scope="module")
def made(rasters, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "new" / "reference-int8.onnx"
    return output, quantise.quantise(REFERENCE, output, rasters)


def test_it_agrees_with_the_bundle_and_is_a_quarter_of_it(made, rasters):
    output, found = made
    assert (found.slices, found.labels >= quantise.LEAST_AGREEMENT) == (24, True)
    assert 0 < found.largest < 0.2
    assert output.stat().st_size < REFERENCE.stat().st_size / 3
    exact, variant = session.load(REFERENCE), session.load(output)
    changed = np.abs(exact.score(rasters).probabilities - variant.score(rasters).probabilities).max()
    assert changed == pytest.approx(found.largest)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_it_says_what_it_is(made):
    exact, variant = session.load(REFERENCE), session.load(made[0])
    assert (variant.description.variant, variant.description.made_from) == ("int8", exact.sha256)
    assert variant.description.metrics == {"agreement": asdict(made[1])}
    assert (
        replace(variant.description, variant=None, made_from=None, golden=None, metrics=exact.description.metrics)
        == exact.description
    )
    assert any("it was made with" in finding.text for finding in verify.check(variant))
    assert all(finding.passed for finding in verify.check(variant))


def test_it_says_the_same_on_every_cpu(made, rasters):
    # The plain graph computes in floating point what the fast kernels compute in integers, and cannot overflow.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(made[0], options, providers=["CPUExecutionProvider"])
    pixels = np.repeat(rasters[..., None], 3, axis=-1).astype(np.float32)
    [expected] = plain.run(["probabilities"], {plain.get_inputs()[0].name: pixels})
    assert np.abs(session.load(made[0]).score(rasters).probabilities - expected).max() < 0.02


def test_a_variant_of_a_variant_is_not_made(made, rasters, tmp_path):
    with pytest.raises(Misconfigured, match="is a variant already"):
        quantise.quantise(made[0], tmp_path / "twice.onnx", rasters)
    assert not (tmp_path / "twice.onnx").exists()


def test_one_that_disagrees_is_not_written(rasters, tmp_path, monkeypatch):
    output = tmp_path / "int8.onnx"
    output.write_bytes(b"what was there before")
    monkeypatch.setattr(quantise, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(Misconfigured, match=r"keep their label, and .* was not written"):
        quantise.quantise(REFERENCE, output, rasters)
    assert output.read_bytes() == b"what was there before"
    assert len(list(tmp_path.iterdir())) == 1


def test_distance_and_evidence_stay_what_they_are(rasters, tmp_path, monkeypatch):
    # A network that has learned nothing has no label to keep.
    monkeypatch.setattr(quantise, "LEAST_AGREEMENT", 0)
    keras.utils.set_random_seed(2)
    random = np.random.default_rng(2)
    familiar = Familiar(random.uniform(0, 0.1, 192).astype(np.float32), 0.0, limit=30.0, unvouched=20.0)
    described = Description(
        "residual", ("a", "b", "c", "d"), PREPROCESS_VERSION, abstain_below=0.0, unfamiliar_above=familiar.limit
    )
    exact = tmp_path / "residual.onnx"
    exact.write_bytes(convert(residual(), described, familiar).SerializeToString())
    quantise.quantise(exact, tmp_path / "int8.onnx", rasters)
    before, after = (session.load(path) for path in (exact, tmp_path / "int8.onnx"))
    np.testing.assert_allclose(after.score(rasters).distances, before.score(rasters).distances, rtol=0.1)
    said = [model.evidence(rasters) for model in (before, after)]
    assert np.corrcoef(said[0].ravel(), said[1].ravel())[0, 1] > 0.98


def test_as_a_person_calls_it(slicewise, write_jpeg, tmp_path):
    for number in range(quantise.SLICES):
        write_jpeg(tmp_path / "s" / f"{number}.jpg", seed=SURE[number % len(SURE)])
    told = slicewise("quantise", REFERENCE, "--slices", tmp_path / "s", "--output", tmp_path / "int8.onnx").stdout
    assert "of 128 real slices keep their label" in told
    shown = slicewise("model", "show", tmp_path / "int8.onnx").stdout
    assert '"variant": "int8"' in shown
    few = slicewise("quantise", REFERENCE, "--slices", tmp_path / "s" / "0.jpg", "--output", tmp_path / "x", status=78)
    assert "--slices" in few.stderr
