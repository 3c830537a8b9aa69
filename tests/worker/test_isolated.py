"""What a file does to the process that decodes it, it does to nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from slicewise.worker import isolated, pipeline


def same(one: pipeline.Prepared, other: pipeline.Prepared) -> bool:
    return (
        one.header == other.header
        and len(one.frames) == len(other.frames)
        and all(
            (a == b).all() if hasattr(a, "all") else (a.reason, a.detail) == (b.reason, b.detail)
            for a, b in zip(one.frames, other.frames, strict=True)
        )
        and str(one.refusal) == str(other.refusal)
        and one.failure == other.failure
    )


def test_isolation_changes_no_byte(brain, write_dicom, write_jpeg, tmp_path):
    frames = np.stack([brain(0), np.zeros((128, 128), np.uint16)])
    text = tmp_path / "a.txt"
    text.write_text("no scan")
    for path in (write_dicom(tmp_path / "a.dcm", frames), write_jpeg(tmp_path / "a.jpg"), text):
        assert same(isolated.prepare(path), pipeline.prepare(path))


@pytest.mark.parametrize("how", ["crash", "exhaust", "spin"])
def test_a_file_that_takes_its_process_along_is_refused(how, write_dicom, tmp_path, poison, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm")
    spooled = path.rename(tmp_path / hashlib.sha256(path.read_bytes()).hexdigest())
    poison(spooled, how)
    if how == "spin":
        monkeypatch.setattr(isolated, "MAX_CPU_SECONDS", 3)
    prepared = isolated.prepare(spooled)
    assert prepared.refusal.reason == "killed_the_worker"
    assert prepared.failure is None
    assert not prepared.frames


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_a_file_is_not_condemned_for_what_came_from_outside(how, write_dicom, tmp_path, poison, monkeypatch):
    """A kill by whoever it was, and a machine too busy to decode in time."""
    path = write_dicom(tmp_path / "a.dcm")
    spooled = path.rename(tmp_path / hashlib.sha256(path.read_bytes()).hexdigest())
    poison(spooled, how)
    if how == "hang":
        monkeypatch.setattr(isolated, "MAX_SECONDS", 1)
    prepared = isolated.prepare(spooled)
    assert prepared.refusal is None
    assert prepared.failure


def test_a_file_that_is_away_is_not_refused(tmp_path):
    """A worker without its spool must not condemn every file for ever."""
    prepared = isolated.prepare(tmp_path / "nowhere")
    assert prepared.refusal is None
    assert prepared.failure.startswith("FileNotFoundError")


def test_an_interpreter_that_cannot_start_condemns_no_file(write_dicom, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('half an upgrade')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    prepared = isolated.prepare(write_dicom(tmp_path / "a.dcm"))
    assert prepared.refusal is None
    assert prepared.failure


def test_a_machine_with_many_processors_leaves_room_to_decode(write_dicom, tmp_path, monkeypatch):
    """Each thread of a pool reserves address space, which the limit counts."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "64")
    assert isolated.prepare(write_dicom(tmp_path / "a.dcm")).frames
