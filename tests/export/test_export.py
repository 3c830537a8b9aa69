"""What is exported answers as the network does, says what it is, and is not written otherwise."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from slicewise.export import verify
from slicewise.export.convert import NOTICE, convert
from slicewise.export.describe import describe
from slicewise.export.doubt import Doubt, Familiar
from slicewise.export.run import Run, write_json
from slicewise.trainer.network import build, reference
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import PREPROCESS_VERSION
from slicewise.worker.model import session
from slicewise.worker.model.bundle import DISTANCES, EVIDENCE, PROBABILITIES, Description
from slicewise.worker.model.verify import check

LABELS = ("glioma", "meningioma", "no_tumor", "pituitary")
DESCRIPTION = Description("reference", LABELS, PREPROCESS_VERSION, training={"split": "é"}, metrics={"validation": {}})


@pytest.fixture(scope="module")
def network() -> keras.Sequential:
    """Weights as a trained network has them: no bias is zero, and the answers are not all alike."""
    keras.utils.set_random_seed(1)
    made = reference()
    random = np.random.default_rng(1)
    for layer in made.layers:
        if layer.count_params():
            layer.bias.assign(random.normal(0, 0.05, layer.bias.shape))
    return made


@pytest.fixture(scope="module")
def converted(network) -> onnx.ModelProto:
    return convert(network, DESCRIPTION)


@pytest.fixture
def slices(tmp_path, write_jpeg):
    for seed in range(33):
        write_jpeg(tmp_path / "slices" / f"{seed}.jpg", seed=seed)
    (tmp_path / "slices" / "notes.txt").write_text("no slice")
    return tmp_path / "slices"


def tampered(model: onnx.ModelProto, change: float) -> onnx.ModelProto:
    """The same graph with one bias of the last layer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    bias = next(i for i in copy.graph.initializer if list(i.dims) == [4])
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += change
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return copy


def test_a_true_bundle_is_written_and_serves(converted, network, slices, tmp_path):
    output = tmp_path / "new" / "reference.onnx"
    rasters = verify.real_slices([slices])
    assert rasters.shape == (32, 150, 150)
    found = verify.write(converted, output, network, rasters[:9])
    assert list(found) == [1, 7, 32]
    assert max(found.values()) <= 1e-5
    assert [path.name for path in output.parent.iterdir()] == ["reference.onnx"]
    model = session.load(output)
    assert model.description.golden
    assert model.description == replace(DESCRIPTION, golden=model.description.golden)
    assert any("it was made with" in finding.text for finding in check(model))
    assert all(finding.passed for finding in check(model))
    colour = np.repeat(rasters[:9, ..., None], 3, axis=-1).astype(np.float32)
    answers = model.score(rasters[:9]).probabilities
    np.testing.assert_allclose(answers, network.predict(colour, verbose=0), atol=1e-5)
    assert np.ptp(answers, axis=0).max() > 0.01
    assert output.read_bytes() == verify.described(converted, model.description).SerializeToString()
    assert verify.described(converted, DESCRIPTION).SerializeToString() == converted.SerializeToString()


@pytest.mark.parametrize("change", [1e-3, np.nan])
def test_a_bundle_that_answers_otherwise_is_not_written(converted, network, slices, tmp_path, change):
    output = tmp_path / "new" / "reference.onnx"
    output.parent.mkdir()
    output.write_bytes(b"what was there before")
    with pytest.raises(Misconfigured, match="disagree"):
        verify.write(tampered(converted, change), output, network, verify.real_slices([slices])[:7])
    assert output.read_bytes() == b"what was there before"
    assert len(list(output.parent.iterdir())) == 1


def test_a_bundle_that_the_worker_would_refuse_is_not_written(converted, network, slices, tmp_path):
    mute = onnx.ModelProto()
    mute.CopyFrom(converted)
    del mute.metadata_props[:]
    with pytest.raises(Misconfigured, match="no slicewise bundle"):
        verify.write(mute, tmp_path / "mute.onnx", network, verify.real_slices([slices]))
    assert not (tmp_path / "mute.onnx").exists()


def test_the_file_describes_itself(converted):
    assert converted.doc_string == NOTICE
    assert "Research use only" in NOTICE
    assert [opset.version for opset in converted.opset_import if not opset.domain] == [17]
    shapes = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*converted.graph.input, *converted.graph.output)
    ]
    assert shapes == [("slices", ["N", 150, 150, 3]), ("probabilities", ["N", 4])]


def test_the_graph_transposes_at_its_ends_only(converted):
    """Into channels-first before the first convolution, and back where the dense layers read the map."""
    kinds = [node.op_type for node in converted.graph.node]
    assert kinds.count("Transpose") == 2
    assert kinds.index("Transpose") < kinds.index("Conv")
    # After the last pooling nothing but the flattening, the dense layers and the answer.
    tail = kinds[len(kinds) - kinds[::-1].index("MaxPool") :]
    assert tail == ["Transpose", "Reshape", *["MatMul", "Add", "Relu"] * 2, "MatMul", "Add", "Softmax"]


def test_the_same_network_gives_the_same_bytes(converted, network):
    """The file's hash is the model's identity: tf2onnx's counters, which go on within a process, must not show."""
    network(np.zeros((1, 150, 150, 3), np.float32))
    assert convert(network, DESCRIPTION).SerializeToString() == converted.SerializeToString()


def test_another_network_is_not_converted(network):
    with pytest.raises(Misconfigured, match="94"):
        convert(reference(94), DESCRIPTION)
    with pytest.raises(Misconfigured, match="2"):
        convert(network, Description("reference", ("a", "b"), PREPROCESS_VERSION))


def test_too_few_real_slices(slices):
    for picture in sorted(slices.glob("*.jpg"))[:2]:
        picture.unlink()
    with pytest.raises(Misconfigured, match=r"31 real slices found in 32 files.*--slices"):
        verify.real_slices([slices])


def test_slices_are_always_the_same(slices):
    one_by_one = sorted(slices.iterdir(), reverse=True)
    np.testing.assert_array_equal(verify.real_slices([slices]), verify.real_slices(one_by_one))


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "run")
    made.folder.mkdir()
    recorded = {
        "recipe": {"size": 150, "epochs": 1},
        "split": "group-disjoint, fold 0 of 5 validates",
        "leaky": False,
        "selection": {"roots": [str(tmp_path / "somebody" / "heads")]},
        "labels": list(LABELS),
        "preprocess_version": PREPROCESS_VERSION,
        "begun_from": None,
        "taught_by": [],
        "data": {"training": {"sets": ["heads"], "fingerprint": "ab"}},
        "validation": [str(tmp_path / "somebody" / "heads" / "glioma" / "1.jpg")],
    }
    write_json(made.record, recorded)
    return made


def test_the_description_comes_from_the_run(run):
    assert describe(run).metrics == {}
    write_json(run.metrics, {"accuracy": 0.9})
    described = describe(run)
    assert described.labels == LABELS
    assert described.preprocess_version == PREPROCESS_VERSION
    assert described.training["data"]["training"] == {"sets": ["heads"], "fingerprint": "ab"}
    assert described.training["leaky"] is False
    assert described.metrics == {"validation": {"accuracy": 0.9}}
    assert "somebody" not in described.to_json()


@pytest.mark.parametrize("familiar", [None, Familiar(np.arange(3, dtype=np.float32), 0.5, 1.5, 1.25)])
def test_doubt_goes_from_the_run_into_the_bundle(run, familiar):
    assert describe(run).temperature is describe(run).abstain_below is describe(run).unfamiliar_above is None
    assert describe(run).unvouched_above is None
    Doubt(1.3, 0.6, familiar).save(run.doubt)
    described = describe(run)
    assert (described.temperature, described.abstain_below) == (1.3, 0.6)
    assert (described.unfamiliar_above, described.unvouched_above) == ((1.5, 1.25) if familiar else (None, None))
    loaded = Doubt.load(run.doubt).familiar
    assert (loaded is None) == (familiar is None)
    if loaded:
        np.testing.assert_array_equal(loaded.direction, familiar.direction)
        assert (loaded.middle, loaded.limit, loaded.unvouched) == (0.5, 1.5, 1.25)
    run.doubt.write_bytes(run.doubt.read_bytes()[:-30])
    with pytest.raises(Misconfigured, match=r"doubt\.npz is damaged"):
        describe(run)


def test_runs_that_cannot_be_described(run):
    recorded = run.read()
    write_json(run.record, {**recorded, "recipe": {"size": 94}})
    with pytest.raises(Misconfigured, match=r"trained at 94x94.*--initial"):
        describe(run)
    del recorded["data"]
    write_json(run.record, recorded)
    with pytest.raises(Misconfigured, match=r"does not say data.*--resume"):
        describe(run)
    run.record.write_text("{")
    with pytest.raises(Misconfigured, match="damaged"):
        describe(run)
    with pytest.raises(Misconfigured, match="holds no run"):
        describe(Run(run.folder / "absent"))


@pytest.mark.parametrize("name", ["residual", "hybrid"])
def test_a_small_network_is_exported_with_what_its_answer_rests_on(name, slices, tmp_path):
    keras.utils.set_random_seed(1)
    small = build(name)
    # As trained: statistics that are not those of a new layer.
    random = np.random.default_rng(1)
    small.set_weights([w + random.uniform(0, 0.05, w.shape).astype(w.dtype) for w in small.get_weights()])
    familiar = Familiar(random.uniform(0, 1, 192).astype(np.float32), 0.7, limit=3.0, unvouched=2.0)
    described = replace(DESCRIPTION, name=name, temperature=2.0, unfamiliar_above=familiar.limit)
    output = tmp_path / f"{name}.onnx"
    rasters = verify.real_slices([slices])[:9]
    found = verify.write(convert(small, described, familiar), output, small, rasters)
    assert max(found.values()) <= 1e-5
    running = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    colour = np.repeat(rasters[..., None], 3, axis=-1).astype(np.float32)
    answers, distances, evidence = running.run([PROBABILITIES, DISTANCES, EVIDENCE], {"slices": colour})
    assert (answers.shape, distances.shape, evidence.shape) == ((9, 4), (9,), (9, 10, 10, 4))
    features = keras.Model(small.input, small.get_layer("features").output)(colour)
    np.testing.assert_allclose(distances, familiar.distances(np.asarray(features)), rtol=1e-3)
    logits = evidence.mean(axis=(1, 2))
    np.testing.assert_allclose(answers, keras.ops.softmax(logits), atol=1e-5)
    scored = session.load(output).score(rasters)
    np.testing.assert_allclose(scored.probabilities, keras.ops.softmax(logits / 2), atol=1e-5)
    np.testing.assert_allclose(scored.distances, distances, rtol=1e-4)
    again = verify.described(convert(small, described, familiar), session.load(output).description)
    assert again.SerializeToString() == output.read_bytes()
