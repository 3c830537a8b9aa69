"""Uploads as jobs: forms, single files and archives; what became of them; what is no upload."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import pytest
from sqlalchemy import select

from slicewise.db.models import Audit
from slicewise.worker.intake import sources
from slicewise.worker.web.body import Bounds


@pytest.fixture
def picture(tmp_path, write_jpeg) -> bytes:
    return write_jpeg(tmp_path / "a.jpg").read_bytes()


def form(face, *files: tuple[str, bytes], **more: object):
    return face.post("/jobs", files=[("file", (name, body)) for name, body in files], **more)


def archive(**members: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, body in members.items():
            packed.writestr(name.replace("__", "/"), body)
    return written.getvalue()


# --- what is taken ----------------------------------------------------------------------------------------------


def test_a_forms_files_are_one_job(face, picture, tmp_path, write_dicom):
    scan = write_dicom(tmp_path / "a.dcm").read_bytes()
    answer = form(face, ("a.dcm", scan), ("b/ü.jpg", picture), ("what.ever", b"rubbish"))
    assert answer.status_code == 202
    said = answer.json()
    assert (said["files"], said["not_taken"]) == (3, [])
    assert answer.headers["Location"] == said["status"] == f"/jobs/{said['submission']}"
    assert sorted(face.sources()) == ["127.0.0.1/a.dcm", "127.0.0.1/b/ü.jpg", "127.0.0.1/what.ever"]
    assert {face.file(one).read_bytes() for one in face.arrivals()} == {scan, picture, b"rubbish"}
    assert {one["way"] for one in face.arrivals()} == {"http"}
    (job,) = face.jobs()
    assert (job.status, job.submission, face.bells) == ("pending", said["submission"], [job.id])


def test_one_file_by_itself_is_named_as_its_sender_says(face, picture):
    for disposition, name in (
        (None, "upload"),
        ('attachment; filename="x y.jpg"', "x y.jpg"),
        ("attachment; filename=../../etc/passwd", "../../etc/passwd"),
        ('attachment; filename="a\x01b"', "a?b"),
        (f"attachment; filename={'n' * 3000}", "n" * 1024),
    ):
        headers = {"Content-Disposition": disposition} if disposition else {}
        assert face.post("/jobs", picture, "image/jpeg", headers=headers).status_code == 202
        assert face.sources()[-1] == f"127.0.0.1/{name}"
    assert len(face.kept()) == 1


def test_curls_own_content_type_is_a_file_too(face, picture):
    assert face.post("/jobs", picture, "application/x-www-form-urlencoded").status_code == 202
    assert len(face.kept()) == 1


def test_an_archive_is_taken_as_its_members(face, picture):
    packed = archive(x__a=b"1", x__b=b"2", c=picture)
    inner = archive(inner=packed)
    for send in (
        lambda: face.post("/jobs", packed, "application/zip"),
        lambda: form(face, ("scans.ZIP", packed)),
        lambda: face.post("/jobs", packed, headers={"Content-Disposition": "attachment; filename=scans.zip"}),
    ):
        answer = send()
        assert (answer.status_code, answer.json()["files"]) == (202, 3)
    assert set(face.sources()[-3:]) == {f"127.0.0.1/scans.zip!{name}" for name in ("x/a", "x/b", "c")}
    # Those inside are files.
    assert face.post("/jobs", inner, "application/zip").json()["files"] == 1
    assert len(face.kept()) == 4
    assert face.half() == []


def test_what_is_only_called_an_archive_is_a_file(face):
    answer = form(face, ("a.zip", b"rubbish"), ("b.zip", b""))
    assert (answer.status_code, answer.json()["files"]) == (202, 2)
    assert sorted(face.sources()) == ["127.0.0.1/a.zip", "127.0.0.1/b.zip"]


def test_more_files_than_a_job_holds_are_several(serve):
    face = serve(job_files=10)
    answer = form(face, *((f"{n}", f"{n}".encode()) for n in range(35)))
    assert answer.json()["files"] == 35
    assert [job.status for job in face.jobs()] == ["pending"] * 4
    assert sorted(face.bells) == [job.id for job in face.jobs()]
    shown = face.get(answer.headers["Location"]).json()
    assert sorted(job["files"] for job in shown["jobs"]) == [5, 10, 10, 10]


def test_a_lane_is_asked_for_in_the_address(face):
    assert form(face, ("a", b"a")).status_code == 202
    answer = face.post("/jobs?lane=stat", b"b")
    assert answer.status_code == 202
    assert [job.lane for job in face.jobs()] == ["routine", "stat"]
    assert face.get(answer.headers["Location"]).json()["jobs"][0]["lane"] == "stat"


# --- what is not ------------------------------------------------------------------------------------------------


def test_damaged_members_are_named_and_the_others_taken(face, tmp_path):
    body = bytearray(archive(good=b"good" * 100, bad=b"bad" * 100, more=b"more" * 100))
    at = body.index(b"bad") + 6
    body[at : at + 4] = b"\xff" * 4
    answer = face.post("/jobs", bytes(body), "application/zip")
    assert answer.status_code == 202
    assert answer.json()["files"] == 2
    (left,) = answer.json()["not_taken"]
    assert left["source"] == "upload!bad"
    assert "damaged" in left["reason"]
    assert face.half() == []


def test_a_bomb_is_not_unpacked(face, monkeypatch):
    monkeypatch.setattr(sources, "_SMALL_BYTES", 1 << 20)
    answer = face.post("/jobs", archive(bomb=b"\0" * (8 << 20)), "application/zip")
    assert answer.status_code == 422
    assert "unpack it first" in answer.json()["not_taken"][0]["reason"]
    assert face.arrivals() == face.half() == face.kept() == []


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data; boundary=b", b"--b--", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data", b"--b--", 400),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="lane"\r\n\r\nstat\r\n--b--',
            400,
        ),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--", 400),
        ("multipart/related; boundary=b", b"--b--", 415),
        ("application/zip", b"PK\x03\x04", 422),
    ],
)
def test_what_is_no_upload_is_said_and_nothing_is_kept(face, kind, body, status):
    answer = face.post("/jobs", body, kind)
    assert answer.status_code == status, answer.text
    assert face.arrivals() == face.half() == face.kept() == []


def test_an_empty_body_is_an_empty_file(face):
    """As an empty file of a folder is: it has its row, which says that it is empty."""
    assert face.post("/jobs", b"").status_code == 202
    assert len(face.arrivals()) == 1


def test_a_full_disk_asks_to_come_again(serve):
    face = serve(reserve=1 << 60)
    for kind, body in (("image/jpeg", b"x"), ("application/zip", archive(a=b"1", b=b"2"))):
        answer = face.post("/jobs", body, kind)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert "spool cannot be written" in answer.json()["not_taken"][0]["reason"]
    assert face.arrivals() == face.half() == []


def test_too_many_uploads_at_a_time_ask_to_come_again(serve, wait_until):
    face = serve(bounds=Bounds(uploads=2))
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    with face.connection() as one, face.connection() as other:
        for made in (one, other):
            made.sendall(head + b"ab")
        wait_until(lambda: len(face.half()) == 2)
        answer = face.post("/jobs", b"x")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert face.get("/healthz").status_code == 200
        one.sendall(b"cde")
        wait_until(lambda: len(face.arrivals()) == 1)
        wait_until(lambda: face.post("/jobs", b"x").status_code == 202)


# --- what became of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/jobs/nothing", "/jobs/nothing/results", "/jobs/%2e%2e", "/jobs/a%00b"])
def test_an_unknown_job_is_said(face, path):
    answer = face.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


def test_results_are_those_of_the_command(served, start, quick, slicewise, tmp_path, write_dicom, wait_until, books):
    """From the upload to its rows, with a real worker."""
    up = start("up")
    wait_until(lambda: "is up" in up.stdout.readline())
    client = served()
    files = [("file", (f"{n}.dcm", write_dicom(tmp_path / f"{n}.dcm", seed=n).read_bytes())) for n in range(3)]
    answer = client.post("/jobs?lane=stat", files=[*files, ("file", ("no.txt", b"no scan"))])
    assert answer.status_code == 202
    place, submission = answer.headers["Location"], answer.json()["submission"]
    wait_until(lambda: client.get(place).json()["finished"])
    shown = client.get(place).json()
    assert (shown["files"], shown["answered"], shown["without_outcome"]) == (4, 4, 0)
    assert client.get(f"/jobs/{shown['jobs'][0]['job']}").json() == shown
    rows = client.get(shown["results"])
    assert rows.headers["Content-Type"] == "application/json"
    assert rows.json() == json.loads(slicewise("results", "--submission", submission, "--format", "json").stdout)
    assert [row["status"] for row in sorted(rows.json(), key=lambda row: row["source"])] == ["labelled"] * 3 + [
        "refused"
    ]
    table = client.get(f"{shown['results']}?format=csv")
    assert table.headers["Content-Type"].startswith("text/csv")
    assert len(list(csv.DictReader(io.StringIO(table.text)))) == 4
    assert client.get(f"{shown['results']}?format=xml").status_code == 400
    with books.database.reading() as session:
        asked = list(session.scalars(select(Audit.subject).where(Audit.action == "asked")))
    assert asked == ["results"] * 2
    client.process.terminate()
    assert client.process.wait(60) == 0
