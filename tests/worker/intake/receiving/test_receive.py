"""What a peer is told is true: success means disk and database. Real peers: dcmtk's tools, and pynetdicom's client."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification
from sqlalchemy import select

from slicewise.db.engine import Database
from slicewise.db.models import Arrival, Instance
from slicewise.worker.intake.receiving.reception import Arriving, Declined, Status
from slicewise.worker.intake.spool import Spool

EXPLICIT = pydicom.uid.ExplicitVRLittleEndian


class Receiver:
    """``slicewise receive`` in a process of its own, and what it has written."""

    def __init__(self, process: subprocess.Popen[str], settings) -> None:
        self.process, self._settings = process, settings
        # "slicewise receives as … on … port N, from …"
        self.port = int(process.stdout.readline().split(" port ")[1].split(",")[0])

    def arrivals(self) -> list[tuple[str, str, str, str]]:
        """Way, sender, source and hash."""
        with closing(Database(self._settings.database_url)) as database, database.reading() as session:
            columns = (Arrival.way, Arrival.sender, Arrival.source, Instance.content_sha256)
            return [tuple(row) for row in session.execute(select(*columns).join(Instance).order_by(Arrival.id))]

    def spooled(self, sha256: str) -> Path:
        return Spool(self._settings.spool).path(sha256)

    def memory(self) -> int:
        """Most bytes that the process has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.fixture
def receive(settings, start):
    with closing(Database(settings.database_url)) as database:
        database.upgrade()
    return lambda *options: Receiver(start("receive", "--port", "0", *options), settings)


def dcmtk(tool: str, receiver: Receiver, *words: object, calling: str = "PACS", called: str = "SLICEWISE") -> int:
    assert shutil.which(tool), "dcmtk is missing: apt-get install dcmtk"
    return subprocess.run(
        [
            tool,
            "-aet",
            calling,
            "-aec",
            called,
            *map(str, words[:1]),
            "127.0.0.1",
            str(receiver.port),
            *map(str, words[1:]),
        ],
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        check=False,
        timeout=60,
    ).returncode


def echoes(receiver: Receiver, **titles: str) -> bool:
    return dcmtk("echoscu", receiver, "-v", **titles) == 0


@contextmanager
def association(receiver: Receiver, calling: str = "PACS"):
    entity = AE(calling)
    entity.add_requested_context(MRImageStorage, EXPLICIT)
    entity.add_requested_context(Verification)
    opened = entity.associate("127.0.0.1", receiver.port, ae_title="SLICEWISE")
    assert opened.is_established
    try:
        yield opened
    finally:
        (opened.release if opened.is_established else opened.abort)()
        opened.join(10)
        if opened.dul.socket:
            # pynetdicom leaves the socket of a peer that was killed open.
            opened.dul.socket.close()


@pytest.fixture
def scans(write_dicom, tmp_path):
    return [write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n) for n in range(6)]


def test_what_storescu_sends_is_kept_as_it_came(receive, scans):
    receiver = receive()
    assert dcmtk("storescu", receiver, "-v", *scans) == 0
    arrivals = receiver.arrivals()
    assert [(way, sender) for way, sender, _, _ in arrivals] == [("receive", "PACS@127.0.0.1")] * 6
    for path, (_, _, source, sha256) in zip(scans, arrivals, strict=True):
        sent, kept = pydicom.dcmread(path), pydicom.dcmread(receiver.spooled(sha256))
        assert source == f"PACS@127.0.0.1/{sent.SOPInstanceUID}"
        assert (kept, kept.file_meta.TransferSyntaxUID) == (sent, EXPLICIT)


def test_what_comes_twice_is_one_content(receive, scans):
    receiver = receive()
    for _ in range(2):
        assert dcmtk("storescu", receiver, "-v", *scans) == 0
    assert len(receiver.arrivals()) == 12
    assert len({sha256 for *_, sha256 in receiver.arrivals()}) == 6


def test_callers_are_known_by_title(receive):
    receiver = receive("--calling", "PACS", "--aet", "SW")
    assert echoes(receiver, called="SW")
    assert not echoes(receiver, called="OTHER")
    assert not echoes(receiver, called="SW", calling="NOBODY")


def test_an_address_that_may_not_connect_is_not_heard(receive):
    receiver = receive("--allow", "192.0.2.0/24")
    assert not echoes(receiver)


def test_an_open_address_without_an_allow_list_is_refused(slicewise, settings):
    with closing(Database(settings.database_url)) as database:
        database.upgrade()
    done = slicewise("receive", "--address", "0.0.0.0", "--port", "0", status=78)
    assert "--allow" in done.stderr


def test_without_room_nothing_is_kept_and_the_sender_is_told(receive, scans):
    receiver = receive("--reserve", "1000000000")
    with association(receiver) as peer:
        assert peer.send_c_store(pydicom.dcmread(scans[0])).Status == 0xA700
    assert receiver.arrivals() == []
    assert not [path for path in receiver.spooled("00" * 32).parents[2].rglob("*") if path.is_file()]


def test_without_a_database_nothing_is_answered_with_success(receive, scans, settings):
    receiver = receive()
    database = Path(settings.database_url.removeprefix("sqlite:///"))
    with closing(Database(settings.database_url)) as opened, association(receiver) as peer:
        with opened.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE arrivals RENAME TO away")
        assert peer.send_c_store(pydicom.dcmread(scans[0])).Status == 0xA700
        with opened.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE away RENAME TO arrivals")
        assert peer.send_c_store(pydicom.dcmread(scans[0])).Status == 0x0000
    assert database.exists()
    assert len(receiver.arrivals()) == 1


def test_what_was_answered_with_success_survives_a_kill(receive, write_dicom, tmp_path, wait_until):
    receiver = receive()
    scans = [write_dicom(tmp_path / "s" / f"{n}.dcm", seed=n) for n in range(200)]
    words = ["storescu", "-v", "-aec", "SLICEWISE", "127.0.0.1", str(receiver.port), *map(str, scans)]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(words, stdout=said, stderr=said) as sender:
        wait_until(lambda: len(receiver.arrivals()) >= 10)
        receiver.process.send_signal(signal.SIGKILL)
        assert sender.wait(60)
    answered = (tmp_path / "said").read_text().count("Received Store Response (Success)")
    arrivals = receiver.arrivals()
    assert 0 < answered <= len(arrivals) < 200
    for *_, sha256 in arrivals:
        assert pydicom.dcmread(receiver.spooled(sha256)).Modality == "MR"


def test_a_stop_is_in_order(receive, scans):
    receiver = receive("--processes", "2")
    assert dcmtk("storescu", receiver, "-v", *scans) == 0
    receiver.process.terminate()
    assert receiver.process.wait(60) == 0
    assert len(receiver.arrivals()) == 6


def test_a_length_that_nobody_can_mean_is_not_believed(receive):
    receiver = receive()
    assert echoes(receiver)
    before = receiver.memory()
    for kind in (0x01, 0x04, 0x99):
        with socket.create_connection(("127.0.0.1", receiver.port), 30) as peer:
            peer.sendall(struct.pack(">BBL", kind, 0, 0xFFFFFFF0))
            # Told to go away, or cut off; in no case listened to.
            while peer.recv(4096):
                pass
    assert receiver.memory() - before < 32 * 2**20
    assert echoes(receiver)


def test_rubbish_harms_nobody(receive):
    receiver = receive()
    kinds = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 0, 255])

    @effort(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(kinds, st.binary(max_size=300)), min_size=1, max_size=4), st.binary(max_size=20))
    def send(pdus, tail):
        with socket.create_connection(("127.0.0.1", receiver.port), 30) as peer:
            try:
                peer.sendall(b"".join(struct.pack(">BBL", kind, 0, len(body)) + body for kind, body in pdus) + tail)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
            except OSError:
                pass

    send()
    assert receiver.process.poll() is None
    assert echoes(receiver)
    assert receiver.arrivals() == []


# --- one object, without a network ---------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def body(path: Path) -> bytes:
    """The data set of a file, without preamble and file meta information."""
    data = path.read_bytes()
    return data[144 + struct.unpack("<L", data[140:144])[0] :]


def test_an_object_that_is_another_than_announced_is_not_kept(spool, scans, tmp_path):
    named = pydicom.dcmread(scans[1])
    arriving = Arriving(spool, named.SOPClassUID, named.SOPInstanceUID, EXPLICIT)
    arriving.write(body(scans[0]))
    with pytest.raises(Declined) as declined:
        arriving.keep()
    assert declined.value.status is Status.DOES_NOT_MATCH
    arriving.discard()
    assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("sop_instance", "content", "status"),
    [
        ("1.2.3", b"this is no data set", Status.CANNOT_UNDERSTAND),
        ("1.2.3", b"", Status.CANNOT_UNDERSTAND),
        ("SMITH^JOHN", b"", Status.INVALID_INSTANCE),
        ("../../etc/passwd", b"", Status.INVALID_INSTANCE),
    ],
)
def test_an_object_that_says_nothing_is_not_kept(spool, sop_instance, content, status):
    arriving = Arriving(spool, MRImageStorage, sop_instance, EXPLICIT)
    arriving.write(content)
    with pytest.raises(Declined) as declined:
        arriving.keep()
    arriving.discard()
    assert declined.value.status is status
    assert "SMITH" not in declined.value.comment
