"""What a data scientist asks of series, and how a patient is found again."""

from __future__ import annotations

import json

from slicewise.worker import sample


def test_late_slices_supersede_what_was_said_of_their_series(shop, write_dicom, tmp_path):
    for seed in (1, 2):
        (job,) = shop.submit(write_dicom(tmp_path / f"{seed}.dcm", seed=seed)).jobs
        shop.worker().on_job(job)
    assert [(row["revision"], row["labelled"]) for row in shop.series()] == [(2, 2), (1, 1)]


def test_a_series_without_any_answer_is_summarised_when_its_job_dies(shop, write_dicom, tmp_path):
    (job,) = shop.submit(write_dicom(tmp_path / "a.dcm", seed=1)).jobs
    shop.worker().on_job(job)
    (dead,) = shop.submit(write_dicom(tmp_path / "b.dcm", seed=2)).jobs
    for path in (shop.settings.spool).rglob("*"):
        if path.is_file():
            path.unlink()
    for _ in range(4):
        shop.worker().on_job(dead)
    assert shop.job(dead)["status"] == "dead"
    assert [(row["revision"], row["files"], row["labelled"]) for row in shop.series()] == [(1, 1, 1)]


def test_as_a_data_scientist_asks(quick, slicewise, tmp_path, write_dicom):
    slicewise("run", sample.STUDY, write_dicom(tmp_path / "a.dcm", PatientID="4711"))
    rows = json.loads(slicewise("series", "--format", "json").stdout)
    assert sum(row["labelled"] for row in rows) >= 3
    assert {row["revision"] for row in rows} == {1}
    assert all(bool(row["rests_on"]) == bool(row["verdict"]) for row in rows)
    assert all(len(row["rests_on"]) == row["labels"][row["verdict"]] for row in rows if row["verdict"])
    told = slicewise("series").stdout
    assert f"{len(rows)} rows" in told
    assert "superseded_at" not in told
    assert "superseded_at" in slicewise("series", "--all").stdout

    name = slicewise("pseudonym", given="4711\n\n").stdout.strip()
    (row,) = json.loads(slicewise("series", "--patient", name, "--format", "json").stdout)
    (result,) = json.loads(slicewise("results", "--patient", name, "--format", "json").stdout)
    assert result["series_instance_uid"] == row["series_instance_uid"]
    assert "4711" not in json.dumps([row, {**result, "source": ""}])
