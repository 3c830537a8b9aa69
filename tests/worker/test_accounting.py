"""Files against the database: nothing is called settled that is not, and nothing is left out."""

from __future__ import annotations

import json
import zipfile
from collections import Counter

import pytest

from slicewise.db import writes
from slicewise.db.accounting import State
from slicewise.worker import accounting, sample


@pytest.fixture
def books(shop):
    """Where every file below some paths stands, by its name."""

    def look(*paths):
        model = shop.worker().version
        return {item.source.rpartition("/")[2]: item for item in accounting.reconcile(paths, shop.database, model)}

    return look


def test_every_file_stands_somewhere(shop, books, write_study, tmp_path):
    folder = write_study(tmp_path / "s", 10)
    (job,) = shop.submit(folder).jobs
    assert Counter(item.state for item in books(folder).values()) == {State.WAITING: 10}
    shop.worker().on_job(job)
    (folder / "late.dcm").write_bytes(b"it never arrived")
    (folder / "link").symlink_to(folder, target_is_directory=True)
    found = books(folder)
    states = Counter(item.state for item in found.values())
    assert states == {State.LABELLED: 9, State.REFUSED: 2, State.MISSING: 1}
    assert found["late.dcm"].state is State.MISSING
    assert found["0009.txt"].detail == "unreadable"
    assert "cannot be taken in" in found["link"].detail


def test_a_file_is_known_by_its_bytes_wherever_it_lies(shop, books, write_dicom, tmp_path):
    first = write_dicom(tmp_path / "a" / "one.dcm")
    (job,) = shop.submit(first).jobs
    shop.worker().on_job(job)
    moved = tmp_path / "moved.dcm"
    first.rename(moved)
    assert books(moved)["moved.dcm"].state is State.LABELLED


def test_another_file_of_the_same_object_is_known_by_its_uid(shop, books, write_dicom, tmp_path):
    """As an object comes over the network: the same data set behind another file header."""
    sent, ours = write_dicom(tmp_path / "sent.dcm", seed=1), tmp_path / "ours.dcm"
    ours.write_bytes(b"x" * 128 + sent.read_bytes()[128:])
    (job,) = shop.submit(ours).jobs
    shop.worker().on_job(job)
    found = books(sent, ours, write_dicom(tmp_path / "never.dcm", seed=2))
    assert [(item.state, item.known_by) for item in found.values()] == [
        (State.LABELLED, "sop_instance_uid"),
        (State.LABELLED, "content"),
        (State.MISSING, None),
    ]


def test_a_dead_job_s_files_are_dead_and_dropped_ones_dropped(shop, books, write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm")
    (job,) = shop.submit(path).jobs
    with shop.database.writing() as session:
        for _ in range(writes.MAX_ATTEMPTS):
            writes.claim(session, job, "me", 60)
            writes.fail(session, job, "me", "it broke")
    assert (books(path)["a.dcm"].state, books(path)["a.dcm"].detail) == (State.DEAD, "it broke")
    with shop.database.writing() as session:
        writes.drop(session, "me")
    assert books(path)["a.dcm"].state is State.DROPPED


def test_the_members_of_an_archive_are_files(shop, books, write_study, tmp_path):
    folder = write_study(tmp_path / "s", 4)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"study/{path.name}")
    (job,) = shop.submit(tmp_path / "s.zip").jobs
    shop.worker().on_job(job)
    assert [item.state for item in books(tmp_path / "s.zip").values()] == [State.LABELLED] * 4
    assert [item.state for item in books(folder).values()] == [State.LABELLED] * 4


def test_many_files_are_looked_up_in_parts(shop, tmp_path):
    for number in range(1201):
        (tmp_path / f"{number}").write_text(str(number))
    counted = []
    found = list(accounting.reconcile([tmp_path], shop.database, shop.worker().version, counted.append))
    assert Counter(item.state for item in found)[State.MISSING] >= 1201
    assert sum(counted) == len(found)
    assert max(counted) <= 500


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([], 0),
        (["labelled", "refused", "abstained"], 0),
        (["labelled", "waiting"], 4),
        (["waiting", "dropped"], 3),
        (["waiting", "dead"], 3),
        (["waiting", "dead", "missing"], 1),
    ],
)
def test_the_exit_status_says_what_is_worst(states, status):
    assert accounting.exit_status(Counter(map(State, states))) == status


# --- the commands ----------------------------------------------------------------------------------------------


def test_as_a_person_asks(quick, slicewise, tmp_path):
    """The words of an operator at night, over the real service."""
    slicewise("run", sample.STUDY)
    told = slicewise("reconcile", sample.STUDY).stdout
    assert told == "18 files: 12 labelled, 6 refused\n"
    (tmp_path / "late.dcm").write_bytes(b"never sent")
    rows = json.loads(slicewise("reconcile", sample.STUDY, tmp_path / "late.dcm", "--format", "json", status=1).stdout)
    assert [row["state"] for row in rows if row["source"].endswith("late.dcm")] == ["missing"]
    assert len(rows) == 19

    events = json.loads(slicewise("explain", sample.STUDY / "refuse_ct.dcm", "--format", "json").stdout)
    assert {"arrived", "attempt began", "refused", "job done", "attempt done"} <= {event["event"] for event in events}
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert "nothing is known of 1.2.3" in slicewise("explain", "1.2.3", status=78).stderr

    assert "0 dead jobs" in slicewise("dead", "list").stdout
    assert "which ones" in slicewise("dead", "retry", status=78).stderr
    assert "no job is called x" in slicewise("dead", "drop", "x", status=78).stderr
    assert slicewise("dead", "retry", "--all").stdout.startswith("0 dead jobs set to wait again")
