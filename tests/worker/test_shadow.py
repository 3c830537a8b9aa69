"""A candidate's answers are compared with those that stand, and none of them is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slicewise.worker import pipeline, shadow
from slicewise.worker.intake.spool import Spool
from slicewise.worker.model import session


def rows(model, files):
    for path, _, answers in pipeline.assess(model, ((path, path) for path in files)):
        for answer in answers:
            said = {"status": answer.status.value, "label": answer.label, "reason": answer.reason}
            yield (
                {"content_sha256": path.name, "source": f"/s/{path.name}", "frame": answer.frame}
                | said
                | {"probabilities": answer.probabilities}
            )


@pytest.fixture
def files(write_study, write_dicom, brain, tmp_path):
    write_dicom(tmp_path / "s" / "frames.dcm", np.stack([brain(1), np.zeros((128, 128), np.uint16), brain(2)]))
    return sorted(write_study(tmp_path / "s", 10).iterdir())


def test_every_answer_that_changes_is_listed_and_no_other(small_model, other, files, tmp_path):
    small, candidate = session.load(small_model, threads=1), session.load(other, threads=1)
    stand = shadow.standing(rows(small, files))
    found = shadow.compare(candidate, stand, lambda name: tmp_path / "s" / name)
    before = {(row["content_sha256"], row["frame"]): row for row in rows(small, files)}
    after = {(row["content_sha256"], row["frame"]): row for row in rows(candidate, files)}
    expected = {key for key in before if before[key]["label"] != after[key]["label"]}
    assert 0 < len(expected) < len(before) == found.slices == 13
    assert {(one.content_sha256, one.frame) for one in found.changed} == expected
    for row in shadow.as_rows(found.changed):
        key = row["content_sha256"], row["frame"]
        assert (row["before"], row["after"]) == (before[key]["label"], after[key]["label"])
        assert row["source"] == f"/s/{key[0]}"
        assert row["probability_after"] == pytest.approx(max(after[key]["probabilities"].values()), abs=1e-4)
    same = shadow.compare(small, stand, lambda name: tmp_path / "s" / name)
    assert (same.slices, same.changed, same.gone, same.failed) == (13, [], 0, 0)


def test_as_a_data_scientist_compares(quick, other, settings, slicewise, write_study, tmp_path):
    slicewise("run", write_study(tmp_path / "s", 10))
    stood = slicewise("results", "--format", "json").stdout
    told = slicewise("model", "compare", other, "--format", "json")
    changed = json.loads(told.stdout)
    assert f"10 slices compared, {len(changed)} would change" in told.stderr
    assert changed
    assert {row["status_after"] for row in changed} == {"labelled"}
    assert slicewise("results", "--format", "json").stdout == stood
    assert "0 would change" in slicewise("model", "compare", quick).stdout
    Spool(settings.spool).path(changed[0]["content_sha256"]).unlink()
    assert "1 content not stored any more" in slicewise("model", "compare", other, status=1).stdout
