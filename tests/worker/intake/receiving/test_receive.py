"""Real peers send over the loopback: what arrives, and what they are answered."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind

from slicewise.db.accounting import State
from slicewise.db.models import Audit
from slicewise.db.questions import Model
from slicewise.worker import accounting, sample
from slicewise.worker.imaging import limits
from slicewise.worker.intake.receiving.callers import network
from slicewise.worker.intake.receiving.heading import heading
from slicewise.worker.intake.spool import Incoming

SOURCES = sorted(set(sample.STUDY.glob("*.dcm")) - {sample.STUDY / "refuse_text.dcm"})


def data_set(path: Path) -> bytes:
    """A file's data set, byte for byte."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


def as_received(path: Path) -> bytes:
    meta = pydicom.filereader.read_file_meta_info(path)
    return heading(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) + data_set(
        path
    )


def store(association, path: Path, **other: str) -> pydicom.Dataset:
    """C-STORE of a file's data set as it is, with UIDs of the command's own where they are given; the answer."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    meta = pydicom.filereader.read_file_meta_info(path)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = other.get("sop_class", meta.MediaStorageSOPClassUID)
    request.AffectedSOPInstanceUID = other.get("sop_instance", meta.MediaStorageSOPInstanceUID)
    request.DataSet = BytesIO(other.get("data", data_set(path)))
    (context,) = [
        one
        for one in association.accepted_contexts
        if one.abstract_syntax == meta.MediaStorageSOPClassUID and one.transfer_syntax == [meta.TransferSyntaxUID]
    ]
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return answer


def ended(scp, wait_until) -> None:
    """Wait until every association's jobs are closed."""
    wait_until(lambda: all(job.status != "open" for job in scp.jobs()))


# --- what is kept ----------------------------------------------------------------------------------------------


def test_an_echo_is_answered(scp):
    scp.echoscu()
    assert scp.arrivals() == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_sent_is_kept_as_it_came(scp, path):
    with scp.association(path) as association:
        assert store(association, path).Status == 0
    (arrival,) = scp.arrivals()
    assert scp.file(arrival).read_bytes() == as_received(path)
    assert pydicom.dcmread(scp.file(arrival)) == pydicom.dcmread(path)


def test_storescu_sends_a_study(scp, tmp_path, write_dicom, wait_until):
    files = [write_dicom(tmp_path / f"{number}.dcm", seed=number) for number in range(5)]
    scp.storescu(*files)
    ended(scp, wait_until)
    arrivals = scp.arrivals()
    assert [scp.file(one).read_bytes() for one in arrivals] == [as_received(path) for path in files]
    assert {one["way"] for one in arrivals} == {"receive"}
    assert {one["sender"] for one in arrivals} == {"MODALITY@127.0.0.1"}
    assert arrivals[0]["source"] == "MODALITY@127.0.0.1/1.2.826.0.1.3680043.8.498.1.1"
    (job,) = scp.jobs()
    assert job.status == "pending"
    assert scp.bells == [job.id]
    assert scp.half() == []


def test_the_sender_s_files_are_reconciled_with_what_came(scp, tmp_path, write_dicom):
    """Other bytes than the sender's: another file header."""
    files = [write_dicom(tmp_path / "sent" / f"{number}.dcm", seed=number) for number in range(3)]
    scp.storescu(*files[:2])
    model = Model("0" * 64, "any")
    found = [(item.state, item.known_by) for item in accounting.reconcile([tmp_path / "sent"], scp.database, model)]
    assert found == [(State.WAITING, "sop_instance_uid"), (State.WAITING, "sop_instance_uid"), (State.MISSING, None)]


def test_who_sent_is_audited(scp, tmp_path, write_dicom):
    scp.storescu(write_dicom(tmp_path / "a.dcm"))
    with scp.database.reading() as session:
        (audited,) = session.query(Audit).all()
    assert (audited.actor, audited.action) == ("MODALITY@127.0.0.1", "sent")


def test_each_series_of_an_association_is_a_job(scp, tmp_path, write_dicom, wait_until):
    files = [
        write_dicom(tmp_path / f"{number}.dcm", seed=number, SeriesInstanceUID=f"1.2.{number % 2}")
        for number in range(6)
    ]
    scp.storescu(*files)
    ended(scp, wait_until)
    jobs = scp.jobs()
    assert len(jobs) == 2
    assert len({job.submission for job in jobs}) == 1
    assert [one["job_id"] for one in scp.arrivals()] == [jobs[number % 2].id for number in range(6)]


def test_a_series_longer_than_a_job_is_several(serve, tmp_path, write_dicom, wait_until):
    scp = serve(job_files=2)
    scp.storescu(*(write_dicom(tmp_path / f"{number}.dcm", seed=number) for number in range(5)))
    ended(scp, wait_until)
    assert sorted(scp.bells) == [job.id for job in scp.jobs()]
    assert len(scp.jobs()) == 3


def test_what_is_sent_twice_is_one_content_and_two_arrivals(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    scp.storescu(path)
    scp.storescu("-aet", "OTHER", path)
    arrivals = scp.arrivals()
    assert [one["sender"] for one in arrivals] == ["MODALITY@127.0.0.1", "OTHER@127.0.0.1"]
    assert len({one["content_sha256"] for one in arrivals}) == 1
    assert len(scp.kept()) == 1


def test_an_object_that_is_no_picture_is_kept_too(scp, tmp_path, write_dicom):
    """The worker refuses it, by a row."""
    for number, sop_class in enumerate([uid.BasicTextSRStorage, "1.3.46.670589.11.0.0.12.1"]):
        path = write_dicom(tmp_path / f"{number}.dcm", seed=number, SOPClassUID=sop_class)
        with scp.association(path) as association:
            assert store(association, path).Status == 0
    assert len(scp.arrivals()) == 2


def test_many_associations_at_once(scp, tmp_path, write_dicom):
    files = [write_dicom(tmp_path / f"{number:02}.dcm", seed=number) for number in range(24)]
    words = ["storescu", "-aec", "SLICEWISE", "127.0.0.1", str(scp.port)]
    senders = [subprocess.Popen([*words, *map(str, files[first::6])], env=None) for first in range(6)]
    assert [sender.wait(120) for sender in senders] == [0] * 6
    assert len(scp.arrivals()) == 24
    assert len(scp.kept()) == 24


def test_a_peer_that_takes_tiny_pieces_is_answered_in_tiny_pieces(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path, max_pdu=128) as association:
        assert store(association, path).Status == 0


# --- what is declined ------------------------------------------------------------------------------------------


def test_a_data_set_that_is_not_what_the_command_says_is_declined(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        answer = store(association, path, sop_instance="1.2.3")
        assert (answer.Status, answer.AffectedSOPInstanceUID) == (0xA900, "1.2.3")
        assert store(association, path).Status == 0
    assert len(scp.arrivals()) == len(scp.kept()) == 1


def test_a_class_that_is_not_that_of_the_context_is_declined(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        assert store(association, path, sop_class=uid.CTImageStorage).Status == 0x0122
    assert scp.kept() == scp.half() == []


def test_what_cannot_be_parsed_is_declined(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        assert store(association, path, data=b"\xff" * 5000).Status == 0xC000
        assert store(association, path, data=b"no data set").Status == 0xC000
    assert scp.arrivals() == scp.kept() == scp.half() == []


def test_an_instance_uid_that_is_none_is_declined(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        assert store(association, path, sop_instance="../../etc/passwd").Status == 0x0117
    assert scp.arrivals() == scp.kept() == scp.half() == []


def test_an_object_that_is_too_large_is_declined(scp, tmp_path, write_dicom, monkeypatch):
    large = write_dicom(tmp_path / "a.dcm", np.zeros((512, 512), np.uint16), seed=1)
    small = write_dicom(tmp_path / "b.dcm", seed=2)
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 300_000)
    with scp.association(small) as association:
        assert store(association, large).Status == 0xA700
        assert store(association, small).Status == 0
    assert len(scp.kept()) == 1
    assert scp.half() == []


def test_an_object_without_an_end_ends_the_association(scp, tmp_path, write_dicom, monkeypatch, wait_until):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((512, 512), np.uint16))
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 100_000)
    with scp.association(path) as association:
        assert store(association, path) is None
    wait_until(lambda: not scp.half())
    assert scp.arrivals() == scp.kept() == []


def test_a_disk_at_its_reserve_declines_until_there_is_room(serve, tmp_path, write_dicom, settings):
    path = write_dicom(tmp_path / "a.dcm")
    settings.spool.mkdir()
    full = serve(reserve=shutil.disk_usage(settings.spool).total * 2)
    done = full.storescu(path, status=None)
    assert "Refused: OutOfResources" in done.stdout + done.stderr
    assert full.arrivals() == full.kept() == full.half() == []
    serve().storescu(path)
    assert len(full.arrivals()) == 1


@pytest.mark.parametrize("step", ["write", "keep"])
def test_a_disk_that_fails_declines(scp, tmp_path, write_dicom, monkeypatch, step):
    def full(*_words):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        with monkeypatch.context() as patched:
            patched.setattr(Incoming, step, full)
            answer = store(association, path)
            assert (answer.Status, answer.ErrorComment) == (
                0xA700,
                "the spool cannot be written: No space left on device",
            )
        assert store(association, path).Status == 0
    assert len(scp.arrivals()) == 1
    assert scp.half() == []


def test_what_was_not_negotiated_ends_the_association(scp, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm")
    with scp.association(path) as association:
        (context,) = [one for one in association.accepted_contexts if one.abstract_syntax == uid.MRImageStorage]
        from io import BytesIO

        from pynetdicom.dimse_primitives import C_FIND

        request = C_FIND()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = PatientRootQueryRetrieveInformationModelFind
        request.Identifier = BytesIO(data_set(path))
        association.dimse.send_msg(request, context.context_id)
        association.join(30)
        assert association.is_aborted
    scp.echoscu()


# --- who may send ----------------------------------------------------------------------------------------------


def test_who_calls_another_application_is_rejected(scp):
    scp.called = "SOMEBODY"
    assert "Called AE Title Not Recognized" in scp.echoscu(status=1).stderr


def test_who_is_not_on_the_list_of_titles_is_rejected(serve):
    scp = serve(calling=("PACS", "MODALITY"))
    scp.echoscu()
    assert "Calling AE Title Not Recognized" in scp.echoscu("-aet", "STRANGER", status=1).stderr


def test_who_is_not_on_the_list_of_addresses_is_not_heard(serve):
    scp = serve(networks=(network("127.0.0.2"),))
    with scp.connection() as connection:
        assert connection.recv(1) == b""
    scp.echoscu(status=1)
    allowed = serve(networks=(network("127.0.0.0/24"),))
    allowed.echoscu()


def test_patients_are_not_named_in_the_log(scp, tmp_path, write_dicom, caplog):
    caplog.set_level("DEBUG")
    path = write_dicom(tmp_path / "a.dcm", PatientName="SECRET^NAME", PatientID="SECRET", PatientBirthDate="19000101")
    with scp.association(path) as association:
        store(association, path)
        store(association, path, sop_instance="1.2.3")
        store(association, path, data=data_set(path)[:700])
    own = [record.getMessage() for record in caplog.records if record.name.startswith(("slicewise", "pynetdicom"))]
    assert any("declined 0xA900" in line or "0xA900" in line for line in own)
    assert not [line for line in own if "SECRET" in line or "19000101" in line or "1.2.826" in line]
