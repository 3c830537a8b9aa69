"""A run leaves everything in its folder, goes on after a kill as if nothing had been, and never sits at chance silently."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from rich.console import Console

from slicewise.export.describe import describe
from slicewise.export.run import Run
from slicewise.trainer import callbacks, data, training
from slicewise.trainer.evaluation import trained_on
from slicewise.trainer.recipe import Recipe, Selection
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import PREPROCESS_VERSION
from slicewise.worker.model import bundle
from slicewise.worker.model.store import REFERENCE, RESIDUAL

# Everything that has a state which a resume could lose: the schedule, the average, dropout, the order, the variations.
RECIPE = Recipe(
    epochs=2, batch=4, learning_rate=3e-4, schedule="cosine", averaging=0.9, label_smoothing=0.05, size=94, seed=5
)
WORDS = (
    *("--epochs", 2, "--batch", 4, "--learning-rate", 3e-4, "--schedule", "cosine", "--averaging", 0.9),
    *("--label-smoothing", 0.05, "--size", 94, "--seed", 5, "--fraction", 0.2),
)


# Keras 3.15 asks NumPy for arrays in a way that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def parted(pristine_data_set) -> data.Split:
    return data.select(Selection((str(pristine_data_set),), fraction=0.2, seed=5))


def weights(path: Path) -> list[np.ndarray]:
    return keras.models.load_model(path, compile=False).get_weights()


@pytest.fixture(scope="module")
def once(parted, tmp_path_factory) -> tuple[Path, training.Trained]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, training.train(parted, RECIPE, folder)


@pytest.fixture
def finished(once, tmp_path) -> Run:
    """A run that nothing broke; for each test its own copy."""
    return Run(shutil.copytree(once[0], tmp_path / "run"))


def test_killed_and_resumed_is_as_unbroken(once, finished, data_set, tmp_path, start, slicewise, wait_until):
    broken = Run(tmp_path / "broken")
    process = start("train", data_set, "--output", broken.folder, *WORDS)
    wait_until(broken.checkpoint.exists)
    process.kill()
    process.wait()
    assert not broken.model.exists()
    # As if the kill had come between the history's row and the checkpoint.
    with broken.history.open("a") as history:
        history.write("1,0.5,9.9,0.5,9.9\n")
    told = slicewise("train", "--output", broken.folder, "--resume").stderr
    assert "going on with the recipe" in told
    assert "epoch 2/2" in told
    assert "epoch 1/2" not in told

    for straight, resumed in zip(weights(finished.model), weights(broken.model), strict=True):
        np.testing.assert_allclose(resumed, straight, atol=1e-5)
    for straight, resumed in zip(*(training.read_history(run.history) for run in (finished, broken)), strict=True):
        assert resumed == pytest.approx(straight, abs=1e-4)
    answers = [list(row["probabilities"].values()) for row in json.loads(broken.predictions.read_text())]
    np.testing.assert_allclose(answers, once[1].probabilities, atol=1e-4)


def test_what_a_run_records(finished, parted):
    recorded = finished.read()
    assert recorded["split"] == parted.description
    assert recorded["leaky"]
    assert recorded["labels"] == list(data.LABELS)
    assert recorded["data"]["training"] == data.census(parted.training)
    assert recorded["data"]["validation"] == data.census(parted.validation)
    assert sorted(recorded["validation"]) == sorted(str(e.path) for e in parted.validation)
    assert Recipe.from_dict(recorded["recipe"]) == RECIPE
    assert recorded["begun_from"] is None
    assert len(training.read_history(finished.history)) == 2


def test_a_folder_holds_one_run(finished, parted):
    with pytest.raises(Misconfigured, match="--resume"):
        training.train(parted, RECIPE, finished.folder)


def test_a_finished_run_resumes_to_itself(finished, parted):
    before = weights(finished.model)
    training.train(parted, RECIPE, finished.folder, resume=True)
    for old, new in zip(before, weights(finished.model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_other_pictures_cannot_go_on(finished, data_set):
    """Pictures that have only moved can."""
    moved = Selection((str(data_set),), fraction=0.2, seed=5)
    training.train(data.select(moved), RECIPE, finished.folder, resume=True)
    assert all(Path(path).is_relative_to(data_set) for path in finished.read()["validation"])
    next(data_set.rglob("*.jpg")).unlink()
    with pytest.raises(Misconfigured, match="its data would change"):
        training.train(data.select(moved), RECIPE, finished.folder, resume=True)


@pytest.fixture(scope="module")
def idle(parted, once, tmp_path_factory) -> tuple[Run, Recipe, str]:
    """A run that begins with another's network, learns nothing, and what it said."""
    run, recipe = (
        Run(tmp_path_factory.mktemp("runs") / "idle"),
        Recipe(epochs=6, batch=16, learning_rate=1e-30, size=110, patience=1),
    )
    with contextlib.redirect_stderr(io.StringIO()) as told:
        training.train(parted, recipe, run.folder, initial=Run(once[0]).model)
    return run, recipe, told.getvalue()


def test_a_run_that_learns_nothing_says_so_and_stops(idle, parted):
    run, recipe, told = idle
    assert "still at chance" in told
    assert "--learning-rate" in told
    epochs = training.read_history(run.history)
    assert len(epochs) == 2
    training.train(parted, recipe, run.folder, resume=True)
    assert training.read_history(run.history) == epochs


def test_begun_from_another_run(idle, finished, parted, tmp_path):
    """The small network's weights go on in a larger one, and the record tells what they have seen."""
    begun = idle[0].read()["begun_from"]
    assert begun["recipe"]["size"] == 94
    assert begun["data"] == finished.read()["data"]
    for old, new in zip(weights(finished.model)[:8], weights(idle[0].model)[:8], strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)
    with pytest.raises(Misconfigured, match="no network at"):
        training.train(parted, RECIPE, tmp_path / "none", initial=tmp_path / "none.keras")


def test_taught_by_a_bundle(parted, tmp_path):
    """The record names the teacher and what it has seen, which is held against the pupil."""
    recipe = Recipe(network="residual", epochs=1, batch=16, learning_rate=1e-30, teaching=0.5)
    run = Run(tmp_path / "run")
    training.train(parted, recipe, run.folder, teachers=[REFERENCE])
    (teacher,) = run.read()["taught_by"]
    assert teacher["sha256"] == bundle.sha256(REFERENCE)
    assert trained_on(teacher) < trained_on(run.read())
    assert describe(run).training["taught_by"] == [teacher]
    with pytest.raises(Misconfigured, match="its taught by would change"):
        training.train(parted, recipe, run.folder, teachers=[RESIDUAL], resume=True)


def test_the_logits_are_adjusted_once(parted, tmp_path):
    """Of what serves, not of what goes on learning; and not again when a finished run is resumed."""
    recipe = Recipe(epochs=1, batch=16, learning_rate=1e-30, size=94, logit_adjustment=(0, 0.5, 0, -0.5))
    run = Run(tmp_path / "run")
    for resume in (False, True):
        training.train(parted, recipe, run.folder, resume=resume)
        np.testing.assert_allclose(weights(run.model)[-1] - weights(run.checkpoint)[-1], [0, 0.5, 0, -0.5])


@pytest.mark.parametrize(
    ("recipe", "teachers", "said"),
    [
        (Recipe(teaching=0.5), [], "--teacher and --teaching"),
        (Recipe(), [REFERENCE], "--teacher and --teaching"),
        (Recipe(teaching=0.5, size=94), [REFERENCE], "--size 150"),
    ],
)
def test_teachers_for_nothing(parted, tmp_path, recipe, teachers, said):
    with pytest.raises(Misconfigured, match=said):
        training.train(parted, recipe, tmp_path / "run", teachers=teachers)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_labels(parted, tmp_path, small_model):
    other, model = tmp_path / "other.onnx", onnx.load(small_model)
    described = bundle.Description("small", data.LABELS[::-1], PREPROCESS_VERSION)
    onnx.helper.set_model_props(model, {bundle.METADATA_KEY: described.to_json()})
    onnx.save(model, other)
    with pytest.raises(Misconfigured, match="cannot teach"):
        training.train(parted, Recipe(teaching=0.5), tmp_path / "run", teachers=[other])


def test_what_is_trained_in_bfloat16_serves_in_float32(parted, tmp_path):
    recipe = Recipe(network="residual", precision="bfloat16", epochs=1, batch=16, averaging=0.9, size=94)
    run = Run(tmp_path / "run")
    trained = training.train(parted, recipe, run.folder)
    trained_in, serves_in = (
        {layer.dtype_policy.name for layer in keras.models.load_model(path, compile=False).layers}
        for path in (run.checkpoint, run.model)
    )
    assert trained_in == {"mixed_bfloat16", "float32"}
    assert serves_in == {keras.config.dtype_policy().name} == {"float32"}
    for kept, serving in zip(weights(run.checkpoint), weights(run.model), strict=True):
        assert kept.dtype == serving.dtype == np.float32
    np.testing.assert_allclose(trained.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("epoch", "loss", "said"), [(1, math.log(4), True), (1, math.nan, True), (1, 1.1, False), (0, 1.4, False)]
)
def test_chance_is_told_after_two_epochs_only(epoch, loss, said):
    console = Console(file=io.StringIO())
    callbacks.LeftChance(console).on_epoch_end(epoch, {"loss": loss})
    assert bool(console.file.getvalue()) == said


@pytest.mark.parametrize(
    ("epochs", "losses", "exhausted"),
    [(2, [3, 2, 2.5, 2.1], True), (2, [3, 2, 2.5], False), (2, [], False), (0, [1, 2, 3, 4], False), (1, [1], False)],
)
def test_patience(epochs, losses, exhausted):
    assert callbacks.Patience(epochs, losses).exhausted == exhausted


def test_nothing_to_train_on(data_set, tmp_path):
    for picture in data_set.rglob("*.jpg"):
        picture.write_bytes(b"no picture")
    with pytest.raises(Misconfigured, match="imaging refuses every one"):
        training.train(data.split(data.find([data_set]), "random", fraction=0.2), RECIPE, tmp_path / "run")
