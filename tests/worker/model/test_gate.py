"""What a bundle has to show before it serves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slicewise.worker.model import gate, session, verify


@pytest.fixture
def serving(small_model):
    return session.load(small_model, threads=1)


@pytest.fixture
def candidate(other):
    return session.load(other, threads=1)


def failed(candidate, serving, measured=()):
    return [finding.text for finding in gate.check(candidate, serving, measured) if not finding.passed]


def figures(model, accuracy, pictures="p"):
    return {"bundle": model.sha256, "fingerprint": pictures, "accuracy": accuracy, "pictures": 1000}


@pytest.mark.parametrize(("after", "passes"), [(0.93, True), (0.9, True), (0.8975, True), (0.896, False)])
def test_a_candidate_may_not_be_worse_on_the_same_pictures(candidate, serving, after, passes):
    found = failed(candidate, serving, [figures(serving, 0.9), figures(candidate, after)])
    assert found == ([] if passes else ["89.6% right, 90.0% by the one that serves, on the same 1000 pictures"])


def test_figures_on_other_pictures_are_no_comparison(candidate, serving):
    for measured in (
        [],
        [figures(serving, 0.5)],
        [figures(serving, 0.5), figures(candidate, 0.9, "others")],
    ):
        (told,) = failed(candidate, serving, measured)
        assert "no figures of both on the same pictures" in told


def test_one_worse_figure_is_enough(candidate, serving):
    measured = [figures(model, 0.9, "p") for model in (serving, candidate)]
    measured += [figures(serving, 0.9, "q"), figures(candidate, 0.8, "q")]
    assert len(failed(candidate, serving, measured)) == 1


def saying(model, **more):
    return replace(model, description=replace(model.description, **more))


def measured_itself(model, accuracy, pictures):
    return saying(
        model,
        training={"data": {"validation": {"fingerprint": pictures}}},
        metrics={"validation": {"accuracy": accuracy, "pictures": 7}},
    )


def test_what_bundles_say_of_themselves_counts(candidate, serving):
    stands = measured_itself(serving, 0.9, "p")
    assert failed(measured_itself(candidate, 0.9, "p"), stands) == []
    assert failed(measured_itself(candidate, 0.8, "p"), stands) != []
    assert failed(measured_itself(candidate, 0.9, "q"), stands) != []


@pytest.mark.parametrize(("kept", "passes"), [(0.98, True), (0.97, False)])
def test_a_variant_of_the_one_that_serves_has_kept_its_labels(candidate, serving, kept, passes):
    agreement = {"agreement": {"labels": kept, "slices": 128, "largest": 0.1}}
    variant = saying(candidate, variant="int8", made_from=serving.sha256, metrics=agreement)
    told = [] if passes else ["made from the one that serves: 97.0% of 128 slices kept their label"]
    assert failed(variant, serving) == told
    assert "no figures of both" in failed(saying(variant, made_from="0" * 64), serving)[-1]
    # Figures count beside it.
    assert len(failed(variant, serving, [figures(serving, 0.9), figures(candidate, 0.8)])) == 1 + (not passes)


def test_other_labels_are_another_question(candidate, serving):
    renamed = saying(candidate, labels=("a", "b", "c", "d"))
    (told,) = failed(renamed, serving, [figures(serving, 0.9), figures(candidate, 0.9)])
    assert told == "its labels are a, b, c, d: not those of the one that serves"


def test_a_bundle_that_answers_otherwise_than_when_it_was_made(candidate):
    golden = verify.golden(candidate)
    assert all(finding.passed for finding in verify.check(saying(candidate, golden=golden)))
    off = np.array(golden["probabilities"])
    off[0, :2] += [0.01, -0.01]
    told = [f for f in verify.check(saying(candidate, golden=golden | {"probabilities": off.tolist()})) if not f.passed]
    assert [finding.text for finding in told] == [
        "from the answers that it was made with, its own differ by at most 1.0e-02 (0.001 is allowed)"
    ]
    # Eight bits round so far, and another sample study has other answers.
    rounded = saying(candidate, golden=golden | {"probabilities": off.tolist()}, variant="int8")
    elsewhere = saying(candidate, golden=golden | {"probabilities": off.tolist(), "slices": "others"})
    assert all(finding.passed for model in (rounded, elsewhere) for finding in verify.check(model))
