"""``slicewise pull`` and ``reconcile`` as a person calls them, from a real PACS: Orthanc, and what pynetdicom makes of one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pydicom
import pynetdicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)
from sqlalchemy import select

from slicewise.db.models import Arrival, Instance, Job
from slicewise.worker import sample
from slicewise.worker.intake.pulling import dicomweb, dimse
from slicewise.worker.intake.pulling.peer import Away, Declines
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.spool import Spool

STUDY = "1.2.826.0.1.3680043.8.498.3"
WHOLE = ("--study", STUDY)


@pytest.fixture
def ready(slicewise):
    slicewise("db", "upgrade")


@pytest.fixture
def pull(slicewise, ready):
    """Rows of a pull."""

    def run(*words, status=0, **environment):
        return json.loads(
            slicewise("pull", *words, "--reserve", 0, "--format", "json", status=status, **environment).stdout
        )

    return run


@pytest.fixture
def kept(settings, opened):
    """What has arrived: SOP Instance UID, way, sender and file."""

    def look():
        with opened(settings.database_url) as database, database.reading() as session:
            asked = select(Instance.sop_instance_uid, Arrival.way, Arrival.sender, Instance.content_sha256).join(
                Arrival
            )
            return [
                (uid, way, sender, Spool(settings.spool).path(sha))
                for uid, way, sender, sha in session.execute(asked.order_by(Arrival.id))
            ]

    return look


def slices(folder, write_dicom, count, first=0, **elements):
    return [write_dicom(folder / f"{n:03}.dcm", seed=n, **elements) for n in range(first, first + count)]


def full(pacs, folder, write_dicom, count=6):
    files = slices(folder, write_dicom, count, AccessionNumber="A7", StudyDate="20260105", PatientName="DOE^JANE")
    for path in files:
        pacs.add(path)
    return files


def way(pacs, by):
    return ("--ae", pacs.ae) if by == "get" else ("--dicomweb", pacs.url)


# --- Orthanc ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["get", "dicomweb"])
def test_a_study_comes_as_it_lies_there_and_is_not_fetched_again(
    orthanc, pull, kept, slicewise, tmp_path, write_dicom, by
):
    pacs = orthanc()
    files = full(pacs, tmp_path / "s", write_dicom)
    (row,) = pull(*way(pacs, by), *WHOLE)
    assert (row["at_pacs"], row["before"], row["came"], row["missing"], row["reason"]) == (6, 0, 6, 0, None)
    assert (row["modality"], row["study_instance_uid"]) == ("MR", STUDY)
    arrived = kept()
    assert {one[1] for one in arrived} == {"pull"}
    assert {one[2] for one in arrived} == {"ORTHANC@127.0.0.1" if by == "get" else "127.0.0.1"}
    for uid, _, _, path in arrived:
        (sent,) = [p for p in files if pydicom.dcmread(p).SOPInstanceUID == uid]
        assert pydicom.dcmread(path) == pydicom.dcmread(sent)

    (row,) = pull(*way(pacs, by), *WHOLE)
    assert (row["before"], row["came"]) == (6, 0)
    assert len(kept()) == 6

    pacs.add(write_dicom(tmp_path / "late.dcm", seed=99))
    table = json.loads(slicewise("reconcile", *way(pacs, by), *WHOLE, "--format", "json", status=1).stdout)
    assert sorted(item["state"] for item in table) == ["missing", *["waiting"] * 6]
    (row,) = pull(*way(pacs, by), *WHOLE)
    assert (row["before"], row["came"]) == (6, 1)
    assert "7 instances: 7 waiting" in slicewise("reconcile", *way(pacs, by), *WHOLE, status=4).stdout


@pytest.mark.parametrize("by", ["get", "dicomweb"])
def test_every_transfer_syntax_comes_as_it_is_stored(orthanc, pull, kept, by):
    pacs, stored = orthanc(), {}
    for path in sorted(sample.STUDY.glob("brain_*.dcm")):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        pacs.add(path)
        stored[dataset.SOPInstanceUID] = dataset.file_meta.TransferSyntaxUID, dataset.StudyInstanceUID
    assert len({syntax for syntax, _ in stored.values()}) > 3
    studies = [word for study in {study for _, study in stored.values()} for word in ("--study", study)]
    pull(*way(pacs, by), *studies)
    came = {
        uid: pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID for uid, _, _, path in kept()
    }
    assert came == {uid: syntax for uid, (syntax, _) in stored.items()}


@pytest.mark.parametrize("by", ["get", "dicomweb"])
@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (("--accession", "A7"), 3),
        (("--date", "20260101..20260131"), 3),
        (("--date", "2026-01-05"), 3),
        (("--date", "..20260104"), 0),
        (("--date", "20260106.."), 0),
        (("--date", "20260101..", "--modality", "CT"), 0),
        (("--series", "1.2.826.0.1.3680043.8.498.2"), 3),
        (("--study", "1.9"), 0),
    ],
)
def test_what_is_asked_for_comes(orthanc_with_three, pull, by, asked, count):
    rows = pull(*way(orthanc_with_three, by), *asked, status=0 if count else 1)
    assert sum(row["came"] for row in rows) == count
    if not count:
        assert rows[0]["reason"] == "the PACS has nothing of it"


@pytest.fixture
def orthanc_with_three(orthanc, tmp_path, write_dicom):
    pacs = orthanc()
    full(pacs, tmp_path / "s", write_dicom, 3)
    return pacs


def test_a_table_of_what_is_wanted(orthanc_with_three, pull, tmp_path):
    table = tmp_path / "wanted.csv"
    table.write_text(f"AccessionNumber,StudyInstanceUID\nA7,\n,{STUDY}\nNONE,\n")
    rows = pull("--ae", orthanc_with_three.ae, "--csv", table, status=1)
    assert [(row["series_instance_uid"], row["came"]) for row in rows] == [
        ("1.2.826.0.1.3680043.8.498.2", 3),
        ("accession NONE", 0),
    ]


def test_it_may_be_sent_to_a_receiver(orthanc, pull, kept, start, tmp_path, write_dicom):
    receiver = start("receive", "--port", 0, "--reserve", 0, "--calling", "ORTHANC")
    pacs = orthanc(int(re.search(r"port (\d+)", receiver.stdout.readline()).group(1)))
    full(pacs, tmp_path / "s", write_dicom)
    (row,) = pull("--ae", pacs.ae, "--move", "SLICEWISE", *WHOLE)
    assert (row["came"], row["missing"]) == (6, 0)
    assert {one[1] for one in kept()} == {"receive"}
    (row,) = pull("--ae", pacs.ae, "--move", "NOBODY", "--study", STUDY)
    assert (row["before"], row["came"]) == (6, 0)
    pacs.add(write_dicom(tmp_path / "late.dcm", seed=99))
    (row,) = pull("--ae", pacs.ae, "--move", "NOBODY", "--study", STUDY, status=1)
    assert (row["missing"], row["reason"][:20]) == (1, "the PACS says 0xC000"[:20])


def test_killed_and_begun_again_it_goes_on(orthanc, pull, kept, settings, tmp_path, write_dicom, wait_until):
    pacs = orthanc()
    full(pacs, tmp_path / "s", write_dicom, 12)
    words = [
        sys.executable,
        "-m",
        "slicewise.worker.cli",
        "pull",
        "--ae",
        pacs.ae,
        *WHOLE,
        "--rate",
        "2",
        "--reserve",
        "0",
    ]
    process = subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(kept()) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(kept())
    assert before < 12
    (row,) = pull("--ae", pacs.ae, *WHOLE)
    assert (row["before"], row["came"], row["missing"]) == (before, 12 - before, 0)
    assert len(kept()) == 12


def test_asked_to_stop_it_tells_what_came(orthanc, kept, ready, tmp_path, write_dicom, wait_until):
    pacs = orthanc()
    full(pacs, tmp_path / "s", write_dicom, 12)
    words = [
        sys.executable,
        "-m",
        "slicewise.worker.cli",
        "pull",
        "--ae",
        pacs.ae,
        *WHOLE,
        "--rate",
        "1",
        "--reserve",
        "0",
    ]
    process = subprocess.Popen(
        [*words, "--format", "json"], env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    wait_until(lambda: len(kept()) >= 2)
    process.terminate()
    (row,) = json.loads(process.communicate()[0])
    assert process.returncode == 1
    assert row["came"] + row["missing"] == 12
    assert row["reason"] == "stopped before"


# pynetdicom drops a socket that was refused without closing it, and Python closes it then.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("by", ["get", "dicomweb"])
def test_a_pacs_that_goes_away_in_the_middle(orthanc, tmp_path, write_dicom, by):
    """Its answer is that it is away, which is asked again; never that there is nothing."""
    pacs = orthanc()
    full(pacs, tmp_path / "s", write_dicom)
    peer = dimse.Dimse(dimse.address(pacs.ae, "SLICEWISE")) if by == "get" else dicomweb.Dicomweb(pacs.url)
    (series,) = peer.series(Wanted(study=STUDY))
    pacs.process.kill()
    pacs.process.wait()
    for ask in (lambda: list(peer.series(Wanted(study=STUDY))), lambda: peer.instances(series)):
        with pytest.raises(Away):
            ask()
    pacs.start()
    assert len(peer.instances(series)) == 6
    peer.close()


def test_a_pacs_that_is_not_there_is_told(slicewise, ready):
    with pynetdicom_pacs() as port:
        pass
    told = slicewise("reconcile", "--ae", f"PACS@127.0.0.1:{port}", *WHOLE, status=78)
    assert "no association" in told.stderr


def test_what_cannot_be_asked_is_said_at_once(slicewise):
    for words, says in (
        ((), "what is wanted"),
        (WHOLE, "which PACS"),
        (("--dicomweb", "http://x", "--move", "A", *WHOLE), "--move goes with --ae"),
        (("--ae", "P@h:1", "--tls-cert", "x.pem", *WHOLE), "need --tls-ca"),
    ):
        assert says in slicewise("pull", *words, status=78).stderr
    for words, says in (
        (("--ae", "PACS"), "give AET@HOST:PORT"),
        (("--dicomweb", "http://me:secret@host"), "no password on a command line"),
        (("--study", "*"), "give a Study Instance UID"),
        (("--rate", "0"), "above 0"),
        (("--night", "22"), "two times of the day"),
    ):
        assert says in slicewise("pull", *words, status=2).stderr
    slicewise("db", "upgrade")
    assert "either PATH... or" in slicewise("reconcile", "x", "--ae", "P@h:1", *WHOLE, status=78).stderr
    assert "what is to be compared" in slicewise("reconcile", status=78).stderr


def test_no_name_of_a_patient_is_said(orthanc_with_three, slicewise, ready):
    done = slicewise("pull", "--ae", orthanc_with_three.ae, "--accession", "A7", "--reserve", 0)
    assert "DOE" not in done.stdout + done.stderr


# --- what a PACS should not do ---------------------------------------------------------------------------------


@contextmanager
def pynetdicom_pacs(found=(), sent=(), echo=None):
    """A PACS that gives these answers to C-FIND, and these objects to C-GET."""
    application = pynetdicom.AE("PACS")
    application.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    application.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    application.add_supported_context(MRImageStorage, ExplicitVRLittleEndian, scu_role=True, scp_role=True)

    def find(_event):
        for one in found:
            yield 0xFF00, one
        if echo is not None:
            yield echo, None

    def get(_event):
        yield len(sent)
        for one in sent:
            yield 0xFF00, one

    server = application.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)]
    )
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def answer(**values):
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def asked(settings, database):
    """A PACS by C-GET whose objects are kept here."""
    from slicewise.worker.intake.receiving.committer import Committer
    from slicewise.worker.intake.receiving.reception import Reception

    committer = Committer(database, lambda *_: None, job_files=256, quiet_seconds=60)
    return lambda port: dimse.Dimse(
        dimse.address(f"PACS@127.0.0.1:{port}", "SLICEWISE"), Reception(settings.spool, committer, reserve_bytes=0)
    )


def test_more_answers_than_a_study_can_have_are_not_collected(asked, monkeypatch):
    monkeypatch.setattr(dimse, "MAX_ANSWERS", 10)
    found = [answer(SeriesInstanceUID=f"1.{n}") for n in range(50)]
    with pynetdicom_pacs(found) as port, pytest.raises(Declines, match="more than 10 answers"):
        list(asked(port).series(Wanted(study="1")))


def test_a_question_that_is_refused_is_told_in_words(asked):
    with pynetdicom_pacs(echo=0xA700) as port:
        peer = asked(port)
        with pytest.raises(Declines, match="0xA700: Refused: Out of Resources"):
            list(peer.series(Wanted(study="1")))
        peer.close()


def test_what_was_not_asked_for_is_not_kept(asked, database, tmp_path, write_dicom):
    right, wrong = (pydicom.dcmread(write_dicom(tmp_path / f"{n}.dcm", seed=n)) for n in (1, 2))
    found = [answer(SOPInstanceUID=right.SOPInstanceUID, SOPClassUID=MRImageStorage)]
    with pynetdicom_pacs(found, [wrong, right]) as port:
        peer = asked(port)
        series = dimse.Series("1", "2", "MR")
        reasons = peer.fetch(series, peer.instances(series), lambda: None)
        peer.close()
    assert reasons[wrong.SOPInstanceUID] == "not what was asked for"
    with database.reading() as session:
        assert list(session.scalars(select(Instance.sop_instance_uid))) == [right.SOPInstanceUID]
        assert [job.status for job in session.scalars(select(Job))] == ["pending"]


def test_an_object_without_an_end_is_broken_off(asked, monkeypatch, tmp_path, write_dicom):
    monkeypatch.setattr(dimse.limits, "MAX_FILE_BYTES", 10_000)
    one = pydicom.dcmread(write_dicom(tmp_path / "a.dcm"))
    found = [answer(SOPInstanceUID=one.SOPInstanceUID, SOPClassUID=MRImageStorage)]
    with pynetdicom_pacs(found, [one]) as port:
        peer = asked(port)
        series = dimse.Series("1", "2", "MR")
        with pytest.raises(Away):
            peer.fetch(series, peer.instances(series), lambda: None)
        peer.close()


# --- what a DICOMweb server should not do ----------------------------------------------------------------------


@pytest.fixture
def web(database, settings):
    """A DICOMweb server that answers as a test wants, and a peer that asks it."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from slicewise.worker.intake.receiving.committer import Committer
    from slicewise.worker.intake.receiving.reception import Reception

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, kind, body = self.server.answers[0]
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    committer = Committer(database, lambda *_: None, job_files=256, quiet_seconds=60)
    peer = dicomweb.Dicomweb(
        f"http://127.0.0.1:{server.server_port}/dicom-web", Reception(settings.spool, committer, reserve_bytes=0)
    )

    def ask(status, kind, body):
        server.answers = [(status, kind, body)]
        return peer

    yield ask
    peer._session.close()
    server.shutdown()
    thread.join()
    server.server_close()


RELATED = 'multipart/related; type="application/dicom"; boundary=b'


def part(body, end=b"\r\n--b--\r\n"):
    return b"--b\r\nContent-Type: application/dicom\r\n\r\n" + body + end


@pytest.mark.parametrize(
    ("kind", "wrap", "says"),
    [
        (RELATED, part, None),
        (RELATED, lambda body: part(body) + b"epilogue", None),
        ("application/dicom", lambda body: body, "not multipart/related"),
        ("multipart/related; type=application/dicom", part, "not multipart/related"),
        (RELATED, lambda body: part(body, b""), "cut off"),
        (RELATED, lambda body: part(body[:1000], b""), "cut off"),
        (RELATED, lambda body: b"", "cut off"),
        (RELATED, lambda body: b"rubbish", "damaged"),
        (RELATED, lambda body: part(b"rubbish"), "no SOP Class and Instance UID"),
        (RELATED, lambda body: part(b""), "no SOP Class and Instance UID"),
        (RELATED, lambda body: part(body, b"\r\n") + part(body), "more than the one"),
        (RELATED, lambda body: part(body.replace(b"8.498.1.1\0", b"8.498.1.9\0")), "another SOP Instance UID"),
    ],
)
def test_what_is_no_answer_is_not_kept(web, database, settings, tmp_path, write_dicom, kind, wrap, says):
    body = write_dicom(tmp_path / "a.dcm", seed=0).read_bytes()
    uid = "1.2.826.0.1.3680043.8.498.1.1"
    peer, came = web(200, kind, wrap(body)), []
    reasons = peer.fetch(dimse.Series("1", "2"), [dimse.Instance(uid)], lambda: came.append(1))
    with database.reading() as session:
        held = list(session.scalars(select(Instance.sop_instance_uid)))
    if says:
        assert says in reasons[uid]
        assert (held, came) == ([], [])
        assert list((settings.spool / "incoming").glob("*")) == []
    else:
        assert (reasons, held, came) == ({}, [uid], [1])


@pytest.mark.parametrize(
    ("status", "kind", "body", "raises"),
    [
        (503, "text/plain", b"", Away),
        (404, "text/plain", b"", Declines),
        (401, "text/plain", b"", Declines),
        (200, "application/dicom+json", b"[{]", Declines),
        (200, "application/dicom+json", b'["a"]', Declines),
        (200, "application/dicom+json", b'{"a": 1}', Declines),
        (200, "application/dicom+json", b'[{"00080018": {"vr": "UI"}}]', Declines),
    ],
)
def test_an_answer_to_a_question_that_is_none_is_told(web, status, kind, body, raises):
    peer = web(status, kind, body)
    with pytest.raises(raises):
        peer.instances(dimse.Series("1", "2"))


def test_a_server_that_knows_no_pages_is_not_asked_for_ever(web, monkeypatch):
    monkeypatch.setattr(dicomweb, "_PAGE", 2)
    answers = [{"00080018": {"vr": "UI", "Value": [f"1.{n}"]}} for n in range(4)]
    peer = web(200, "application/dicom+json", json.dumps(answers).encode())
    started = time.monotonic()
    assert [one.uid for one in peer.instances(dimse.Series("1", "2"))] == ["1.0", "1.1", "1.2", "1.3"]
    assert time.monotonic() - started < 60
