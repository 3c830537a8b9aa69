"""The figures, against ones worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slicewise.db.reasons import AbstentionReason, RefusalReason
from slicewise.trainer import evaluation
from slicewise.trainer.data import Example, Rasters, Split, census, find, rasters, select, split
from slicewise.trainer.evaluation import Scored
from slicewise.trainer.recipe import Recipe, Selection
from slicewise.worker.errors import Misconfigured
from slicewise.worker.model import bundle, session
from slicewise.worker.model.store import RESIDUAL

LABELS = ("a", "b", "c", "d")
TRUTH = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 2])
GROUPS = ["x", "x", "y", "z", "z", "w"]


def sure_of(predicted: np.ndarray, sureness: float = 0.7) -> np.ndarray:
    return np.where(np.eye(4)[predicted] > 0, sureness, (1 - sureness) / 3).astype(np.float32)


@pytest.fixture
def measured() -> dict:
    return evaluation.metrics(sure_of(PREDICTED), TRUTH, GROUPS, LABELS)


def test_counts_and_shares(measured):
    assert measured["pictures"] == 6
    assert measured["accuracy"] == pytest.approx(4 / 6)
    assert measured["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert measured["classes"] == {
        # Of its two groups both are right, one is, or none: any draw of two can be met.
        "a": {"precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "recall_95": [0, 1], "support": 3},
        "b": {"precision": 0.5, "recall": 0.5, "recall_95": [0.5, 0.5], "support": 2},
        "c": {"precision": 1, "recall": 1, "recall_95": [1, 1], "support": 1},
        "d": {"precision": None, "recall": None, "recall_95": None, "support": 0},
    }
    assert measured["log_loss"] == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.1)) / 6, rel=1e-6)


def test_one_picture_of_each_group(measured):
    # The first of each group: right, wrong, right, right.
    assert measured["groups"] == 4
    assert measured["accuracy_one_per_group"] == 0.75
    np.testing.assert_array_equal(evaluation.representatives(GROUPS), [0, 2, 3, 5])


def test_interval_draws_whole_groups():
    correct = np.repeat([True, True, True, False], 100)
    low, high = evaluation.bootstrap_interval(correct, [f"g{n}" for n in range(400)])
    # 400 independent pictures: about the normal interval, .75 ± 1.96 * sqrt(.75 * .25 / 400).
    assert (low, high) == (pytest.approx(0.7076, abs=0.01), pytest.approx(0.7924, abs=0.01))
    few_low, few_high = evaluation.bootstrap_interval(correct, [f"g{n // 100}" for n in range(400)])
    assert few_low <= 0.25
    assert few_high == 1
    assert evaluation.bootstrap_interval(correct, ["g"] * 400) == (0.75, 0.75)


def scored(labels: tuple[str, ...] = LABELS) -> Scored:
    examples = [Example(Path(f"{n}.jpg"), f"{n}.jpg", "abcd"[t], "", GROUPS[n]) for n, t in enumerate(TRUTH)]
    refused = [(Example(Path("r.jpg"), "r.jpg", "a", "", "r"), RefusalReason.BLANK)]
    return Scored(labels, sure_of(PREDICTED), Rasters(np.zeros((6, 150, 150), np.uint8), examples, refused))


def test_labels_are_the_networks_own():
    """A bundle with another order of classes is measured by its own names."""
    backwards = scored(LABELS[::-1])
    assert [backwards.labels[t] for t in backwards.truth] == list("aaabbc")
    assert backwards.metrics("here")["classes"]["a"]["support"] == 3
    assert backwards.metrics("here")["accuracy"] == 0
    with pytest.raises(Misconfigured, match="does not know c"):
        _ = scored(("a", "b")).truth


def test_what_comes_of_keeping_silent():
    assert scored().metrics("all")["doubt"] is None
    # Both of the wrong ones are withheld, and one that is right.
    silent = replace(scored(), doubts=[None, None, "uncertain", None, "unfamiliar", "uncertain"]).metrics("all")[
        "doubt"
    ]
    assert silent == {
        "coverage": 0.5,
        "accuracy_of_labels": 1.0,
        "withheld_by_reason": {"uncertain": 2, "unfamiliar": 1},
    }
    mute = replace(scored(), doubts=["uncertain"] * 6).metrics("all")["doubt"]
    assert (mute["coverage"], mute["accuracy_of_labels"]) == (0, None)


def test_refused_pictures_are_named():
    told = scored().metrics("random")
    assert told["split"] == "random"
    assert (told["refused"], told["refused_by_reason"]) == (1, {"blank": 1})
    rows = scored().predictions()
    assert rows[0] == {"path": "0.jpg", "label": "a", "predicted": "a", "probabilities": rows[0]["probabilities"]}
    assert rows[0]["probabilities"] == pytest.approx({"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1})
    assert rows[-1] == {"path": "r.jpg", "label": "a", "refused": "blank"}
    json.dumps([told, rows], allow_nan=False)


def test_a_figure_says_where_the_network_may_have_seen_the_pictures(data_set):
    parted = split(find([data_set]), "random", fraction=0.2)
    other = split(find([data_set]), "random", fraction=0.2, seed=1)
    told = {"data": {"training": census(parted.training)}}

    def caution(training: dict, of: Split = parted) -> str:
        return evaluation.held_out(Scored(LABELS, np.empty((0, 4)), rasters([]), training), of)

    assert caution(told) == caution({**told, "begun_from": told}) == ""
    assert "CAUTION" in caution(told, other)
    assert "CAUTION" in caution({**told, "begun_from": {"data": {"training": census(other.training)}}})
    assert "CAUTION" in caution({**told, "begun_from": {"sha256": "ab"}})
    assert "CAUTION" in caution({})


def test_nothing_left_to_measure():
    empty = Scored(LABELS, np.empty((0, 4), np.float32), Rasters(np.empty((0, 150, 150), np.uint8), [], []))
    with pytest.raises(Misconfigured, match="refuses all"):
        empty.metrics("here")


def test_a_bundle_is_measured_as_it_serves(data_set):
    examples = find([data_set])
    model = session.load(bundle.DEFAULT)
    answers = evaluation.score(model, examples)
    np.testing.assert_array_equal(answers.probabilities, model.score(answers.rasters.pixels).probabilities)
    assert answers.metrics("all")["pictures"] == 20
    assert answers.seconds > 0


def test_a_slice_whose_header_vouches_for_it_is_in_doubt_where_a_picture_is_refused_as_in_a_worker(
    data_set, write_dicom
):
    write_dicom(data_set / "glioma" / "by_mr.dcm", seed=1)
    model = session.load(bundle.DEFAULT)
    strict = replace(model, description=replace(model.description, unfamiliar_above=-1e9))
    answers = evaluation.score(strict, find([data_set]))
    told = {example.path.suffix: doubt for example, doubt in zip(answers.rasters.examples, answers.doubts, strict=True)}
    assert told == {".jpg": RefusalReason.UNFAMILIAR, ".dcm": AbstentionReason.STRANGE}
    assert evaluation.pool([answers]).rasters.vouched == answers.rasters.vouched


@pytest.fixture
def in_folds(data_set) -> Selection:
    """Twenty pictures in five folds."""
    pictures = sorted(data_set.rglob("*.jpg"))
    rows = [f"{path.relative_to(data_set.parent)},g{n},{n % 5},0" for n, path in enumerate(pictures)]
    groups = data_set.parent / "groups.csv"
    groups.write_text("\n".join(["path,pooled_group,fold5,group_mixed_label", *rows]))
    return Selection((str(data_set),), str(groups), "fold")


def held_out_by(selection: Selection, fold: int) -> dict:
    """What a network says that held a fold out."""
    return {"data": {"training": census(select(replace(selection, fold=fold)).training)}}


def test_each_network_is_scored_on_the_fold_that_it_held_out(in_folds):
    splits = evaluation.folds([held_out_by(in_folds, fold) for fold in (3, 0)], in_folds)
    assert [{e.fold for e in split.validation} for split in splits] == [{3}, {0}]


@pytest.mark.parametrize(
    ("held", "how", "said"),
    [
        ((0, 1), "random", "give --split fold"),
        ((0, 0), "fold", "bundle 2 held out the same fold"),
        ((0, None), "fold", "bundle 2 held out none of the folds"),
    ],
)
def test_networks_that_cannot_be_pooled(in_folds, held, how, said):
    trainings = [{} if fold is None else held_out_by(in_folds, fold) for fold in held]
    with pytest.raises(Misconfigured, match=said):
        evaluation.folds(trainings, replace(in_folds, how=how))


def test_pooled_answers_are_those_of_the_parts():
    first = scored()
    second = replace(first, probabilities=first.probabilities[::-1])
    pooled = evaluation.pool([first, second]).metrics("both")
    assert (pooled["pictures"], pooled["refused"]) == (12, 2)
    counts = [np.array(part.metrics("")["confusion"]) for part in (first, second)]
    np.testing.assert_array_equal(pooled["confusion"], sum(counts))
    with pytest.raises(Misconfigured, match="differ in their labels"):
        evaluation.pool([first, scored(LABELS[::-1])])
    with pytest.raises(Misconfigured, match="only some of them know doubt"):
        evaluation.pool([first, replace(first, doubts=[None] * 6)])


def test_what_near_copies_flatter():
    training = [Example(Path("t.jpg"), "t.jpg", "a", "", group) for group in ("x", "elsewhere")]
    found = evaluation.near_copies(scored(), training)
    assert {name: (part["pictures"], part["accuracy"]) for name, part in found.items()} == {
        "with": (2, 1),
        "without": (4, 0.5),
    }
    assert all(sum(one["pictures"] for one in part["sets"].values()) == part["pictures"] for part in found.values())
    assert evaluation.near_copies(scored(), [])["with"] == {"pictures": 0, "accuracy": None, "sets": {}}


def test_what_the_headline_is_measured_by():
    """The default's teachers: one recipe, and each fold held out by one of them."""
    paths = sorted((Path(__file__).parents[2] / "docs" / "evaluated").glob("residual-fold?.onnx"))
    trainings = [session.load(path, threads=1).description.training for path in paths]
    assert {training["split"] for training in trainings} == {
        f"group-disjoint, fold {fold} of 5 validates" for fold in range(5)
    }
    begun = [training["begun_from"] for training in trainings]
    assert [one["split"] for one in begun] == [training["split"] for training in trainings]
    for networks in (trainings, begun):
        # What a later version has added to recipes was off.
        recipes = [Recipe.from_dict(network["recipe"]) for network in networks]
        assert all(recipe == recipes[0] for recipe in recipes)
    taught = session.load(RESIDUAL, threads=1).description.training
    assert {teacher["split"] for teacher in taught["taught_by"]} == {training["split"] for training in trainings}
    assert len(taught["taught_by"]) == len(trainings)
    # It never passes for a network that held a fold out.
    seen = evaluation.trained_on(taught)
    assert seen == set().union(*map(evaluation.trained_on, trainings))
    assert len(seen) == len(trainings)


def leaning(towards: float, fold: int) -> Scored:
    """A network that has something against class b, on a fold of 2,000 pictures."""
    random = np.random.default_rng(fold)
    truth = random.integers(4, size=2000)
    logits = 3 * np.eye(4)[truth] + random.normal(scale=1.5, size=(2000, 4)) + towards * np.eye(4)[1]
    powers = np.exp(logits)
    examples = [Example(Path(), f"{n}", "abcd"[t], "", f"{fold}-{n}", fold) for n, t in enumerate(truth)]
    pictures = Rasters(np.zeros((2000, 1, 1), np.uint8), examples, [])
    return Scored(LABELS, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), pictures)


def test_logits_are_adjusted_by_the_other_folds():
    pooled = evaluation.pool([leaning(-1.5, fold) for fold in range(3)])
    plain, found = pooled.metrics("all"), evaluation.adjusted(pooled)
    assert found["added"]["b"] > 0.5
    assert found["accuracy"] > plain["accuracy"]
    assert found["recall"]["b"] > plain["classes"]["b"]["recall"] + 0.05
    # What helps the others does not help the one that differs from them: it has no say in its own.
    differ = evaluation.pool([leaning(-1.5, 0), leaning(1.5, 1)])
    assert evaluation.adjusted(differ)["accuracy"] < differ.metrics("all")["accuracy"] - 0.05


def test_classes_and_groups_count_alike():
    """Copies of the pictures of a class, and more groups of it, change nothing but the noise."""
    one, other = leaning(0, 0), leaning(0, 1)
    copies = [i for i, example in enumerate(one.rasters.examples) if example.label == "b"] * 5
    chosen = np.r_[np.arange(2000), copies]
    more = Rasters(one.rasters.pixels[chosen], [one.rasters.examples[i] for i in chosen], [])
    copied = Scored(LABELS, one.probabilities[chosen], more)
    expected, found = (evaluation.adjusted(evaluation.pool([first, other]))["added"] for first in (one, copied))
    assert found == pytest.approx(expected, abs=1e-6)
    rare = [i for i, example in enumerate(one.rasters.examples) if example.label != "b" or i % 4 == 0]
    fewer = Rasters(one.rasters.pixels[rare], [one.rasters.examples[i] for i in rare], [])
    found = evaluation.adjusted(evaluation.pool([Scored(LABELS, one.probabilities[rare], fewer), other]))["added"]
    assert found == pytest.approx(expected, abs=0.15)


def test_each_set_by_itself():
    """One may have worse labels than another."""
    names = [
        "one/Testing/a/0.jpg",
        "one/Testing/a/1.jpg",
        "one/Training/a/2.jpg",
        "two/b/3.jpg",
        "two/b/4.jpg",
        "two/c/5.jpg",
    ]
    official = ["Testing", "Testing", "Training", "", "", ""]
    told = scored()
    examples = [
        replace(example, name=name, official=part)
        for example, name, part in zip(told.rasters.examples, names, official, strict=True)
    ]
    sets = replace(told, rasters=told.rasters._replace(examples=examples)).metrics("all")["sets"]
    assert sets == {
        "one Testing": {"pictures": 2, "accuracy": 1},
        "one Training": {"pictures": 1, "accuracy": 0},
        "two": {"pictures": 3, "accuracy": pytest.approx(2 / 3)},
    }
