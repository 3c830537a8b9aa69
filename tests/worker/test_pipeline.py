"""From files to answers: order, frames, refusals, and that nobody's answer depends on a neighbour."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from slicewise.db.records import NO_MODEL, WHOLE_FILE, Outcome
from slicewise.worker import pipeline
from slicewise.worker.model import session
from slicewise.worker.model.bundle import DEFAULT, METADATA_KEY, Description
from slicewise.worker.sample import STUDY


@pytest.fixture(scope="module", params=["small", "shipped"])
def model(request, small_model):
    return session.load(small_model if request.param == "small" else DEFAULT, threads=2)


@pytest.fixture
def small(small_model):
    return session.load(small_model, threads=1)


def assessed(model, files, **options):
    return list(pipeline.assess(model, enumerate(files), **options))


def answers(model, files, **options):
    return [given for _, _, given in assessed(model, files, **options)]


def test_answers_come_in_order_one_for_each_file(small, write_study, tmp_path):
    files = sorted(write_study(tmp_path / "s", 150).iterdir())
    given = assessed(small, files, threads=4)
    assert [key for key, _, _ in given] == list(range(150))
    for number, (_, prepared, answer) in enumerate(given):
        assert [a.status for a in answer] == [Outcome.REFUSED if number % 10 == 9 else Outcome.LABELLED]
        assert (prepared.header.sop_instance_uid is not None) == (files[number].suffix == ".dcm")


def test_a_label_is_the_class_of_the_largest_probability(model):
    (answer,) = answers(model, [STUDY / "brain_axial_explicit.dcm"])[0]
    assert answer.label == max(answer.probabilities, key=answer.probabilities.get)
    assert set(answer.probabilities) == set(model.labels)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert (answer.frame, answer.model_sha256, answer.provider) == (1, model.sha256, "cpu")


def test_an_answer_is_the_same_alone_and_in_every_company(model, write_study, tmp_path):
    """Bit for bit: an answer must not depend on what else arrived."""
    files = sorted(write_study(tmp_path / "s", 10).iterdir())
    together = answers(model, files)
    assert answers(model, files[::-1])[::-1] == together
    assert answers(model, [files[0]] * 30 + files)[30:] == together
    for number in (0, 2, 9):
        assert answers(model, [files[number]]) == [together[number]]


def test_frames_count_from_one_and_are_told_apart(small, brain, write_dicom, tmp_path):
    frames = np.stack([brain(seed) for seed in range(40)])
    together = write_dicom(tmp_path / "a.dcm", frames)
    alone = [write_dicom(tmp_path / f"{n}.dcm", frame) for n, frame in enumerate(frames)]
    (given,) = answers(small, [together])
    assert [a.frame for a in given] == list(range(1, 41))
    assert [a.probabilities for a in given] == [a.probabilities for (a,) in answers(small, alone)]


def test_a_frame_that_is_refused_costs_only_itself(small, brain, write_dicom, tmp_path):
    frames = np.stack([brain(0), np.zeros((128, 128), np.uint16), brain(1)])
    (given,) = answers(small, [write_dicom(tmp_path / "a.dcm", frames)])
    assert [(a.frame, a.status, a.reason) for a in given] == [
        (1, "labelled", None),
        (2, "refused", "blank"),
        (3, "labelled", None),
    ]
    # The model in charge stands in it: another model's run has to answer all of the file's frames.
    assert given[1].model_sha256 == small.sha256
    assert given[1].probabilities is given[1].label is given[1].provider is None


def test_a_file_that_is_refused_has_one_answer_without_a_model(small, brain, write_dicom, tmp_path):
    cut = write_dicom(tmp_path / "a.dcm", np.stack([brain(0), brain(1)]))
    cut.write_bytes(cut.read_bytes()[:-200])
    (given,) = answers(small, [cut])
    assert [(a.frame, a.status, a.reason, a.model_sha256) for a in given] == [
        (WHOLE_FILE, "refused", "truncated_pixels", NO_MODEL)
    ]


def test_a_file_that_cannot_be_read_fails_and_is_not_refused(small, write_dicom, tmp_path):
    """A spool that is away is no fault of the file's: no answer may stand for it."""
    sound = write_dicom(tmp_path / "a.dcm")
    lost, found = assessed(small, [tmp_path / "nowhere", sound])
    assert lost[2] == ()
    assert lost[1].failure.startswith("FileNotFoundError in ")
    assert str(tmp_path) not in lost[1].failure
    assert found[2][0].status == "labelled"


def test_nothing_gives_nothing(small):
    assert assessed(small, []) == []


def test_the_lease_can_be_renewed_while_a_slow_file_is_waited_for(small, write_dicom, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_TICK_SECONDS", 0.01)
    ticks, slow = [], threading.Event()

    def prepare(path: Path):
        assert slow.wait(30)
        return pipeline.prepare(path)

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 5:
            slow.set()

    assert len(answers(small, [write_dicom(tmp_path / "a.dcm")], prepare=prepare, tick=tick)) == 1
    assert len(ticks) >= 5


def test_who_leaves_early_does_not_wait_for_what_has_not_begun(small, write_dicom, tmp_path):
    """At the end of a turn dozens of decodes may be queued, in isolation each of up to a minute."""
    begun = []

    def prepare(path: Path):
        begun.append(path)
        time.sleep(0.02)
        return pipeline.Prepared(failure="slow")

    given = pipeline.assess(small, ((n, tmp_path) for n in range(500)), prepare=prepare, threads=2)
    next(given)
    given.close()
    assert len(begun) < 30


def test_an_error_in_a_tick_ends_the_work(small, write_dicom, tmp_path):
    def tick() -> None:
        raise KeyError("the lease is lost")

    with pytest.raises(KeyError):
        answers(small, [write_dicom(tmp_path / "a.dcm")], tick=tick)


# --- doubt -----------------------------------------------------------------------------------------------------


@pytest.fixture
def doubting(small_model, tmp_path):
    """The small model, with a distance (the mean brightness) and bounds of its own."""

    def make(**bounds):
        import onnx

        made = onnx.load(small_model)
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "along"))
        made.graph.node.append(onnx.helper.make_node("ReduceMean", ["features", "along"], ["distances"], keepdims=0))
        made.graph.output.append(onnx.helper.make_tensor_value_info("distances", onnx.TensorProto.FLOAT, ["N"]))
        described = Description.from_metadata({p.key: p.value for p in made.metadata_props}, small_model)
        onnx.helper.set_model_props(made, {METADATA_KEY: dataclasses.replace(described, **bounds).to_json()})
        onnx.save(made, tmp_path / "doubting.onnx")
        return session.load(tmp_path / "doubting.onnx", threads=1)

    return make


def test_an_answer_below_the_bound_is_withheld(small, doubting, write_study, tmp_path):
    files = [path for path in sorted(write_study(tmp_path / "s", 20).iterdir()) if path.suffix != ".txt"]
    plain = [given for (given,) in answers(small, files) if given.label]
    middle = float(np.median([max(given.probabilities.values()) for given in plain]))
    for before, (after,) in zip(plain, answers(doubting(abstain_below=middle), files), strict=True):
        assert after.probabilities == before.probabilities
        if max(before.probabilities.values()) >= middle:
            assert (after.status, after.label, after.reason) == ("labelled", before.label, None)
        else:
            assert (after.status, after.label, after.reason) == ("abstained", None, "uncertain")
            assert f"a label needs {middle:.3f}" in after.detail


def test_the_bound_holds_for_probabilities_at_the_bundle_s_temperature(small, doubting, write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm")
    ((plain,),), ((cool,),) = (answers(model, [path]) for model in (small, doubting(temperature=3.0)))
    assert max(cool.probabilities.values()) < max(plain.probabilities.values())
    assert cool.label == plain.label
    assert sum(cool.probabilities.values()) == pytest.approx(1)


def test_what_is_unlike_all_that_is_known_is_refused(doubting, write_jpeg, tmp_path):
    path = write_jpeg(tmp_path / "a.jpg")
    ((near,),) = answers(doubting(unfamiliar_above=300.0), [path])
    assert near.status == "labelled"
    model = doubting(unfamiliar_above=1.0, unvouched_above=0.5, abstain_below=1.1)
    ((far,),) = answers(model, [path])
    assert (far.status, far.label, far.reason, far.probabilities) == ("refused", None, "unfamiliar", None)
    assert (far.frame, far.model_sha256) == (1, model.sha256)


def test_a_slice_by_its_header_is_never_refused_by_the_network(doubting, write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm")
    ((far,),) = answers(doubting(unfamiliar_above=1.0, unvouched_above=0.5), [path])
    assert (far.status, far.label, far.reason) == ("abstained", None, "strange")
    assert far.probabilities
    assert far.detail.endswith("a label needs at most 1")


def test_a_header_vouches_for_what_a_picture_alone_does_not(doubting, write_dicom, write_jpeg, tmp_path):
    paths = [write_dicom(tmp_path / "a.dcm"), write_jpeg(tmp_path / "a.jpg")]
    (slice_,), (picture,) = answers(doubting(unfamiliar_above=300.0, unvouched_above=1.0, abstain_below=0.1), paths)
    assert slice_.status == "labelled"
    assert (picture.status, picture.label, picture.reason) == ("abstained", None, "strange")
    assert picture.probabilities
    assert picture.detail.endswith("a label needs at most 1 without a header")
    (picture,) = answers(doubting(unfamiliar_above=300.0, unvouched_above=299.0), [paths[1]])[0]
    assert picture.status == "labelled"
