"""STOW-RS: what is stored, what is said of the rest, and what arrives twice, damaged or in the wrong place."""

from __future__ import annotations

import json
import urllib.request

import pydicom
import pytest
from dicomweb_client.web import DICOMwebClient
from sqlalchemy import event

from slicewise.db import writes
from slicewise.worker.imaging import limits
from slicewise.worker.web.body import Bounds

FAILED, STORED, OTHER = "00081198", "00081199", "0008119A"
KIND = 'multipart/related; type="application/dicom"; boundary=b'
STUDY = "1.2.826.0.1.3680043.8.498.2"


@pytest.fixture
def bodies(tmp_path, write_dicom):
    """Files of one study, by their number."""

    def make(count: int, **elements: object) -> list[bytes]:
        elements = {"StudyInstanceUID": STUDY, **elements}
        return [write_dicom(tmp_path / f"{n}.dcm", seed=n, **elements).read_bytes() for n in range(count)]

    return make


def said(answer, tag: str) -> list[tuple[str | None, int | None]]:
    """SOP Instance UID and failure reason of each item of a sequence."""
    items = answer.json().get(tag, {}).get("Value", [])
    return [tuple(item.get(key, {}).get("Value", [None])[0] for key in ("00081155", "00081197")) for item in items]


def uid(body: bytes) -> str:
    from io import BytesIO

    return str(pydicom.dcmread(BytesIO(body), stop_before_pixels=True).SOPInstanceUID)


# --- what is stored --------------------------------------------------------------------------------------------


def test_what_is_answered_is_in_the_spool_and_in_the_database(face, bodies):
    sent = bodies(20)
    answer = face.stow(*sent)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert [one for one, _ in said(answer, STORED)] == list(map(uid, sent))
    assert {face.file(one).read_bytes() for one in face.arrivals()} == set(sent)
    assert {(one["way"], one["sender"]) for one in face.arrivals()} == {("stow", "127.0.0.1")}
    assert sorted(face.sources()) == sorted(f"127.0.0.1/{uid(body)}" for body in sent)
    (job,) = face.jobs()
    assert (job.status, job.lane, face.bells) == ("pending", "routine", [job.id])
    assert answer.headers["Link"] == f'</jobs/{job.submission}>; rel="related"'
    assert face.half() == []


def test_series_are_jobs_of_their_own_and_a_full_one_is_followed_by_another(serve, tmp_path, write_dicom):
    face = serve(job_files=4)
    sent = [
        write_dicom(tmp_path / "a.dcm", seed=n, SeriesInstanceUID=f"1.2.{n % 2 + 1}").read_bytes() for n in range(12)
    ]
    assert face.stow(*sent).status_code == 200
    by_job: dict[object, set[str]] = {}
    for one in face.arrivals():
        series = pydicom.dcmread(face.file(one), stop_before_pixels=True).SeriesInstanceUID
        by_job.setdefault(one["job_id"], set()).add(series)
    assert sorted(map(sorted, by_job.values())) == [["1.2.1"], ["1.2.1"], ["1.2.2"], ["1.2.2"]]
    assert {job.status for job in face.jobs()} == {"pending"}


def test_the_same_twice_is_two_arrivals_of_one_content(face, bodies):
    sent = bodies(3)
    for _ in range(2):
        assert face.stow(*sent).status_code == 200
    assert face.stow(sent[0], sent[0]).status_code == 200
    assert len(face.arrivals()) == 8
    assert len(face.kept()) == 3


def test_stat_overtakes(face, bodies):
    assert face.post("/studies?lane=stat", *bodies(1), "application/dicom").status_code == 200
    assert [job.lane for job in face.jobs()] == ["stat"]
    assert face.post("/studies?lane=soon", *bodies(1), "application/dicom").status_code == 400


def test_one_instance_may_come_by_itself(face, bodies):
    (body,) = bodies(1)
    answer = face.post("/studies", body, "application/dicom")
    assert (answer.status_code, said(answer, STORED)) == (200, [(uid(body), None)])
    assert face.file(face.arrivals()[0]).read_bytes() == body


def test_a_body_of_unknown_length_is_read_to_its_end(face, bodies, related):
    whole = related(*bodies(3))
    answer = face.post("/studies", (whole[i : i + 7919] for i in range(0, len(whole), 7919)), KIND)
    assert (answer.status_code, len(said(answer, STORED))) == (200, 3)


def test_byte_by_byte_is_the_same(face, bodies, related):
    body = related(bodies(1)[0][:3000])
    head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {KIND}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    answer = face.say(*(bytes([byte]) for byte in head.encode() + body))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(face.kept()) == 1


# --- real clients ----------------------------------------------------------------------------------------------


def test_dicomweb_client_stores(face, tmp_path, write_dicom):
    files = [write_dicom(tmp_path / f"{n}.dcm", seed=n, StudyInstanceUID=STUDY) for n in range(3)]
    client = DICOMwebClient(face.url)
    answer = client.store_instances([pydicom.dcmread(path) for path in files], STUDY)
    assert len(answer.ReferencedSOPSequence) == 3
    assert "FailedSOPSequence" not in answer
    assert len(face.kept()) == 3
    client._session.close()


def test_orthanc_stores(serve, orthanc, tmp_path, write_dicom):
    face = serve()
    pacs = orthanc(DicomWeb={"Enable": True, "Servers": {"slicewise": [f"{face.url}/"]}})
    instances = [pacs.add(write_dicom(tmp_path / f"{n}.dcm", seed=n)) for n in range(5)]
    asked = json.dumps({"Resources": instances, "Synchronous": True}).encode()
    with urllib.request.urlopen(f"{pacs.url}/servers/slicewise/stow", asked, timeout=60) as answer:
        assert answer.status == 200
    assert sorted(face.sources()) == sorted({f"127.0.0.1/1.2.826.0.1.3680043.8.498.1.{n + 1}" for n in range(5)})
    assert len(face.kept()) == 5


# --- what is not ------------------------------------------------------------------------------------------------


def test_of_a_mixture_every_part_is_told(face, bodies):
    good, other = bodies(2)
    text_part, no_uid = b"no DICOM at all", other.replace(uid(other).encode(), b"\0" * len(uid(other)))
    answer = face.stow(good, text_part, no_uid, b"")
    assert answer.status_code == 202
    assert said(answer, STORED) == [(uid(good), None)]
    assert said(answer, FAILED) == []
    assert said(answer, OTHER) == [(None, 0xC000)] * 3
    assert len(face.arrivals()) == len(face.kept()) == 1
    assert face.half() == []


def test_another_study_than_the_addresss_is_not_stored(face, bodies):
    (body,) = bodies(1)
    assert face.stow(body, study=f"/{STUDY}").status_code == 200
    answer = face.stow(body, study="/1.2.3")
    assert (answer.status_code, said(answer, FAILED)) == (409, [(uid(body), 0xA900)])
    assert face.stow(body, study="/DOE^JOHN").status_code == 400
    assert len(face.arrivals()) == 1


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("", b"x", 415),
        ("application/dicom+json", b"[]", 415),
        ('multipart/related; type="application/dicom+json"; boundary=b', b"--b--", 415),
        ("multipart/form-data; boundary=b", b"--b--", 415),
        ('multipart/related; type="application/dicom"', b"--b--", 400),
        (f'multipart/related; type="application/dicom"; boundary={"b" * 300}', b"--b--", 400),
        (KIND, b"", 400),
        (KIND, b"rubbish", 400),
        (KIND, b"--b\r\nContent-Type: application/dicom\r\n\r\n", 400),
        (KIND, b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--", 415),
        (KIND, b"--b\r\n" + b"X: y\r\n" * 100 + b"\r\nx\r\n--b--", 400),
        (KIND, b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--", 400),
        ("application/dicom", b"", 409),
    ],
)
def test_what_is_no_message_is_said_and_nothing_is_kept(face, kind, body, status):
    answer = face.post("/studies", body, kind)
    assert answer.status_code == status, answer.text
    if status != 409:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["detail"]
    assert face.arrivals() == face.half() == face.kept() == []


def test_a_message_that_breaks_off_keeps_what_came_whole(face, bodies, related):
    sent = bodies(3)
    answer = face.post("/studies", related(*sent, end=b""), KIND)
    assert (answer.status_code, answer.json()["detail"][:9]) == (400, "the multi")
    assert {face.file(one).read_bytes() for one in face.arrivals()} == set(sent[:2])
    assert face.half() == []
    assert {job.status for job in face.jobs()} == {"pending"}


def test_a_connection_that_breaks_off_keeps_what_came_whole(face, bodies, related, wait_until):
    sent = bodies(3)
    whole = related(*sent)
    head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND}\r\nContent-Length: {len(whole)}\r\n\r\n"
    with face.connection() as connection:
        connection.sendall(head.encode() + whole[: len(whole) - 1000])
        wait_until(lambda: len(face.arrivals()) == 2)
    wait_until(lambda: face.half() == [])
    wait_until(lambda: {job.status for job in face.jobs()} == {"pending"})
    assert {face.file(one).read_bytes() for one in face.arrivals()} == set(sent[:2])


def test_xml_is_not_spoken(face, bodies):
    for accept, status in (
        ("application/dicom+xml", 406),
        ("application/dicom+xml, */*;q=0.1", 200),
        ("application/json", 200),
    ):
        assert face.post("/studies", *bodies(1), "application/dicom", headers={"Accept": accept}).status_code == status


def test_a_boundary_within_the_data_is_data(face, bodies):
    (body,) = bodies(1)
    body += b"\r\n-b\r\n--c\r\n\r\n--\r\n"
    assert face.stow(body).status_code == 200
    assert face.file(face.arrivals()[0]).read_bytes() == body


# --- no room, no database ---------------------------------------------------------------------------------------


def test_a_full_disk_asks_to_come_again(serve, bodies):
    face = serve(reserve=1 << 60)
    answer = face.stow(*bodies(2))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert [reason for _, reason in said(answer, FAILED)] == [0xA700] * 2
    assert face.get("/readyz").status_code == 503
    assert face.arrivals() == face.half() == []


def test_an_absent_database_asks_to_come_again_and_is_not_asked_for_each_part(
    own_postgres, opened, serve_with, bodies, wait_until
):
    with opened(own_postgres.make()) as database:
        database.upgrade()
        face = serve_with(database)
        asked = []
        event.listen(database.engine, "do_connect", lambda *_arguments: asked.append(1) and None)
        own_postgres.stop()
        answer = face.stow(*bodies(60))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert [reason for _, reason in said(answer, FAILED)] == [0xA700] * 60
        assert len(asked) < 30
        assert face.get("/readyz").status_code == 503
        assert face.get("/healthz").status_code == 200
        assert face.get(f"/jobs/{writes.uuid7()}").status_code == 503
        own_postgres.start()
        wait_until(lambda: face.get("/readyz").status_code == 200)
        assert face.stow(*bodies(60)).status_code == 200
        assert len(face.arrivals()) == 60


def test_too_large_a_part_is_one_failure(face, bodies, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 40_000)
    good = bodies(1)[0][:30_000]
    answer = face.stow(good, good + b"\0" * 20_000)
    assert answer.status_code == 202
    assert said(answer, FAILED) == [(uid(bodies(1)[0]), 0xA700)]
    answer = face.stow(good, good + b"\0" * 100_000)
    assert (answer.status_code, answer.json()["detail"]) == (413, "endless")
    assert face.half() == []


def test_bounds_of_a_request_hold(serve, bodies):
    face = serve(bounds=Bounds(200_000, parts=3))
    (body,) = bodies(1)
    assert face.stow(*[body[:30_000]] * 3).status_code == 200
    assert "parts" in face.stow(*[body[:30_000]] * 4).json()["detail"]
    assert face.post("/studies", b"x" * 200_001, KIND).status_code == 413
    assert face.post("/studies", iter([b"x" * 200_001]), "application/dicom").status_code == 413
    assert face.post("/studies", b"x", "application/dicom", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert face.half() == []


def test_a_fault_is_answered_and_its_words_are_not_logged(face, bodies, caplog, monkeypatch, wait_until):
    def broken(*_arguments, **_more):
        raise RuntimeError("DOE^JOHN")

    monkeypatch.setattr("slicewise.worker.intake.receiving.committer.Committer.add", broken)
    answer = face.stow(*bodies(1))
    assert (answer.status_code, answer.json()["title"]) == (500, "Internal Server Error")
    wait_until(lambda: "RuntimeError" in caplog.text)
    assert "DOE" not in caplog.text + answer.text
