"""What is drawn over a slice lies where the network found it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from slicewise.worker import evidence
from slicewise.worker.imaging import load, to_raster
from slicewise.worker.model import session
from slicewise.worker.model.bundle import EVIDENCE
from slicewise.worker.model.store import RESIDUAL
from slicewise.worker.sample import STUDY


def test_heat_lies_where_most_is_said_for_the_label():
    said = np.zeros((10, 10, 4), np.float32)
    said[2, 7, 1] = 4
    said[:, :, 3] = 1
    hot = evidence.heat(said, 1)
    assert (hot.shape, hot.dtype, hot.min(), hot.max()) == ((150, 150), np.float32, 0, 1)
    row, column = np.unravel_index(hot.argmax(), hot.shape)
    assert (row // 15, column // 15) == (2, 7)
    assert hot[60:].max() == 0


@pytest.mark.parametrize("side", [8, 16])
def test_heat_lies_in_the_middle_of_what_a_place_sees(side):
    """Of layers of step 2 that pad: what changes a place's answer lies around where it is drawn."""
    import keras

    flowing = seen = keras.Input((150, 150, 1))
    for _ in range(int(np.log2(side))):
        flowing = keras.layers.Conv2D(1, 3, 2, padding="same", use_bias=False, kernel_initializer="ones")(flowing)
    network = keras.Model(seen, flowing)
    middle = network.output_shape[1] // 2
    # One picture for each row, bright there alone.
    answers = network.predict(np.eye(150, dtype=np.float32)[:, :, None, None].repeat(150, axis=2), verbose=0)
    felt = np.flatnonzero(answers[:, middle, middle, 0])
    said = np.zeros((*network.output_shape[1:3], 4), np.float32)
    said[middle, middle, 0] = 1
    row, _ = np.unravel_index(evidence.heat(said, 0).argmax(), (150, 150))
    assert row == (felt[0] + felt[-1]) // 2


def test_what_is_said_for_all_labels_alike_is_no_heat():
    said = np.random.default_rng(0).normal(0, 1, (10, 10, 1)).astype(np.float32).repeat(4, axis=-1)
    np.testing.assert_allclose(evidence.heat(said, 0), 0, atol=1e-6)
    other = np.zeros((10, 10, 4), np.float32)
    other[..., 2] = 5
    assert evidence.heat(other, 0).max() == 0


def test_a_picture_is_grey_where_nothing_is_hot_and_coloured_where_it_is():
    raster = np.full((150, 150), 100, np.uint8)
    hot = np.zeros((150, 150), np.float32)
    hot[20:50, 90:120] = 1
    picture = np.asarray(Image.open(io.BytesIO(evidence.overlay(raster, hot))))
    assert picture.shape == (450, 450, 3)
    np.testing.assert_array_equal(picture[300, 100], [100, 100, 100])
    red, green, blue = picture[105, 315]
    assert red >= green > 2 * blue


@pytest.fixture
def explaining(small_model, tmp_path):
    """The small model, that also says what each of its tiles speaks for."""
    import onnx

    made = onnx.load(small_model)
    columns = np.random.default_rng(1).normal(0, 1, (3, 4)).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(columns, "columns"))
    made.graph.node.append(onnx.helper.make_node("MatMul", ["means", "columns"], [EVIDENCE]))
    made.graph.output.append(onnx.helper.make_tensor_value_info(EVIDENCE, onnx.TensorProto.FLOAT, ["N", 6, 6, 4]))
    onnx.save(made, tmp_path / "explaining.onnx")
    return tmp_path / "explaining.onnx"


def test_of_every_slice_with_an_answer_there_is_a_picture_and_an_array(
    explaining, slicewise, write_study, write_dicom, brain, tmp_path
):
    study = write_study(tmp_path / "s", 10)
    frames = np.stack([brain(1), np.zeros((128, 128), np.uint16)])
    write_dicom(study / "two.dcm", frames)
    into = tmp_path / "drawn"
    done = slicewise("evidence", study, "--model", explaining, "--pictures", into, "--format", "json")
    rows = json.loads(done.stdout)
    assert len(rows) == 12
    assert sum(row["status"] == "refused" for row in rows) == 2
    drawn = [row for row in rows if row["picture"]]
    assert {row["status"] for row in drawn} == {"labelled"}
    assert len(drawn) == 10
    assert {path.name for path in into.iterdir()} == {row[kind] for row in drawn for kind in ("picture", "array")}
    model = session.load(explaining, threads=1)
    assert model.explains
    for row in drawn:
        said = np.load(into / row["array"])
        assert said.shape == (6, 6, 4)
        assert row["picture"] == f"{row['content_sha256'][:16]}_{row['frame']}.png"
        with Image.open(into / row["picture"]) as picture:
            assert picture.size == (450, 450)
    told = slicewise("evidence", study, "--model", explaining, "--pictures", into).stdout
    assert f"10 pictures in {into}" in told


def test_a_network_that_does_not_answer_by_places_says_so(quick, slicewise, write_study, tmp_path):
    done = slicewise("evidence", write_study(tmp_path / "s", 2), "--pictures", tmp_path / "drawn", status=78)
    assert "give --model" in done.stderr
    assert not (tmp_path / "drawn").exists()


# Where the masses are painted, in the raster: rows and columns.
MASSES = {
    "mass_rim_jpeg2000.dcm": ("glioma", slice(42, 80), slice(36, 66)),
    "mass_dural_jpegls.dcm": ("meningioma", slice(62, 93), slice(100, 131)),
    "mass_sella_implicit.dcm": ("pituitary", slice(82, 104), slice(64, 88)),
}


@pytest.mark.parametrize("name", MASSES)
def test_the_shipped_network_looks_at_the_mass(name):
    """What speaks for the tumour lies on it: its hottest place, and three times as much of the heat as of the slice."""
    label, rows, columns = MASSES[name]
    model = session.load(RESIDUAL, threads=1)
    (decoded,) = load((STUDY / name).read_bytes())
    (said,) = model.evidence(to_raster(decoded)[None])
    hot = evidence.heat(said, model.labels.index(label))
    on_it = np.zeros(hot.shape, bool)
    # The last map has a place every 16 pixels, and is drawn between their centres.
    on_it[max(0, rows.start - 8) : rows.stop + 8, max(0, columns.start - 8) : columns.stop + 8] = True
    assert on_it[np.unravel_index(hot.argmax(), hot.shape)]
    assert hot[on_it].sum() / hot.sum() > 3 * on_it.mean()
