"""Clients that stall, trickle, flood and babble: no crash, no hang, little memory, and every part accounted for."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from slicewise.worker.web import body, server
from slicewise.worker.web.body import Bounds
from tests.fuzzing import examples

KIND = 'multipart/related; type="application/dicom"; boundary=b'


@pytest.fixture
def database(tmp_path, opened):
    """One kind is enough: little of this reaches it."""
    with opened(f"sqlite:///{tmp_path / 'test.sqlite3'}") as made:
        made.upgrade()
        yield made


def head(length: int | None = None, path: str = "/studies", kind: str = KIND, **more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


# --- stalling ---------------------------------------------------------------------------------------------------


def test_a_body_that_stops_is_given_up(serve, heard):
    face = serve(bounds=Bounds(silent_seconds=0.3))
    with face.connection() as connection:
        connection.sendall(head(1000) + b"--b\r\n\r\nabc")
        assert heard(connection).startswith(b"HTTP/1.1 408 ")
    assert face.half() == face.arrivals() == []


def test_a_body_that_trickles_is_given_up(serve, wait_until, monkeypatch):
    monkeypatch.setattr(body, "_LEAST_BYTES_A_SECOND", 1 << 40)
    face = serve(bounds=Bounds(silent_seconds=0.3))
    with face.connection() as connection:
        connection.sendall(head(1 << 20) + b"--b\r\n\r\n")
        connection.settimeout(0.05)

        def answered() -> bytes:
            try:
                connection.sendall(b"a")
                return connection.recv(100)
            except TimeoutError:
                return b""

        assert wait_until(answered).startswith(b"HTTP/1.1 408 ")
    assert face.half() == []


@pytest.mark.parametrize("begin", [b"", b"POST", b"POST /studies HTTP/1.1\r\nX: "])
def test_a_head_that_does_not_end_is_given_up(face, heard, monkeypatch, begin):
    monkeypatch.setattr(server, "_ASTRAY_SECONDS", 0.3)
    with face.connection() as connection:
        connection.sendall(begin)
        assert heard(connection) == b""


def test_a_head_that_trickles_is_given_up(face, wait_until, monkeypatch):
    monkeypatch.setattr(server, "_ASTRAY_SECONDS", 0.3)
    with face.connection() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")

        def gone() -> bool:
            try:
                connection.sendall(b"a")
            except ConnectionError:
                return True
            return False

        assert wait_until(gone, every=0.05)


def test_what_still_comes_after_an_answer_has_its_time(face, wait_until, monkeypatch):
    monkeypatch.setattr(server, "_ASTRAY_SECONDS", 0.3)
    lines = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    with face.connection() as connection:
        connection.sendall(lines + b"x" * 1000)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404 ")

        def gone() -> bool:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                return True
            return False

        assert wait_until(gone, every=0.05)


def test_a_client_hears_why_although_it_is_still_sending(face):
    answer = face.post("/studies", b"x" * (32 << 20), "text/plain")
    assert answer.status_code == 415


def test_an_upload_that_does_not_end_is_let_go_of_when_the_server_stops(
    serve, related, tmp_path, write_dicom, wait_until, heard, monkeypatch
):
    monkeypatch.setattr(server, "STOP_SECONDS", 1)
    face = serve()
    whole = related(*(write_dicom(tmp_path / "a.dcm", seed=n).read_bytes() for n in range(3)))
    with face.connection() as connection:
        connection.sendall(head(len(whole)) + whole[:-1000])
        wait_until(lambda: len(face.arrivals()) == 2)
        face.stop()
        heard(connection)
    assert len(face.arrivals()) == 2
    assert face.half() == []
    assert {job.status for job in face.jobs()} == {"pending"}


def test_idle_connections_do_not_keep_others_out(face):
    made = [socket.create_connection(("127.0.0.1", face.port)) for _ in range(50)]
    assert face.get("/healthz").status_code == 200
    for one in made:
        one.close()


# --- babbling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /jobs/\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /jobs/%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_http_harms_nobody(face, wait_until, said):
    answer = face.say(said, last=True)
    assert answer == b"" or answer[9:10] in {b"4", b"5"}, answer
    assert face.get("/healthz").status_code == 200
    wait_until(lambda: face.half() == [])
    assert face.arrivals() == []


def test_an_upgrade_is_not_taken(face):
    answer = face.say(
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")


def settled(face) -> set[bytes]:
    """Every content that is both in the books and in the spool."""
    return {face.file(one).read_bytes() for one in face.arrivals()}


_TOKENS = st.sampled_from(
    [b"\r\n", b"--b", b"--b--", b"\r\n--b\r\n", b"\r\n--b--\r\n", b"--", b"\0", b"Content-Type: application/dicom\r\n\r\n",
     b"Content-Type: text/plain\r\n", b"DICM", b":", b"; ", b"\xff" * 9]
)  # fmt: skip


@hypothesis_settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(_TOKENS, st.binary(max_size=40)), max_size=30), st.integers(1, 64), st.booleans())
def test_any_body_is_answered_and_what_is_answered_is_kept(face, pieces, size, chunked):
    message = b"".join(pieces)
    if chunked:
        cut = [message[at : at + size] for at in range(0, len(message), size)]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in cut) + b"0\r\n\r\n"
        answer = face.say(head(Transfer_Encoding="chunked"), sent)
    else:
        answer = face.say(head(len(message)), message)
    assert answer[:9] == b"HTTP/1.1 ", answer
    assert 200 <= int(answer[9:12]) < 500, answer
    assert face.half() == []
    assert face.get("/healthz").status_code == 200


@hypothesis_settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_of_a_mutated_message_every_part_is_accounted_for(face, related, tmp_path, write_dicom, data):
    good = [write_dicom(tmp_path / "a.dcm", seed=n).read_bytes()[:2000] for n in range(3)]
    message = bytearray(related(*good))
    for _ in range(data.draw(st.integers(0, 6), "mutations")):
        at = data.draw(st.integers(0, len(message) - 1), "at")
        match data.draw(st.sampled_from(["set", "cut", "add"]), "how"):
            case "set":
                message[at] = data.draw(st.integers(0, 255), "byte")
            case "cut":
                del message[at : at + data.draw(st.integers(1, 50), "length")]
            case "add":
                message[at:at] = data.draw(st.binary(max_size=20), "more")
    answer = face.say(head(len(message)), bytes(message))
    status, said = int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]
    assert status in {200, 202, 400, 409, 415}, answer
    if status in {200, 202, 409}:
        items = json.loads(said)
        told = {tag: len(items.get(tag, {}).get("Value", [])) for tag in ("00081199", "00081198", "0008119A")}
        before = getattr(face, "before", 0)
        assert len(face.arrivals()) - before == told["00081199"]
        assert told["00081199"] + told["00081198"] + told["0008119A"] >= 1
    face.before = len(face.arrivals())
    assert face.half() == []
    # What is in the books is in the spool, whole.
    for one in face.arrivals()[-3:]:
        assert face.file(one).stat().st_size == one["size_bytes"]


# --- memory -----------------------------------------------------------------------------------------------------


def peak_of(pid: int) -> int:
    """Most memory a process has held, in MiB."""
    with Path(f"/proc/{pid}/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


def test_large_bodies_take_little_memory(served, tmp_path, write_dicom):
    """256 MiB as an instance, as a form, as an archive and as one header: at most 64 MiB more than before."""
    client = served()
    assert client.post("/jobs", write_dicom(tmp_path / "a.dcm").read_bytes()).status_code == 202
    before = peak_of(client.process.pid)
    piece = b"\0" * (1 << 20)
    start = write_dicom(tmp_path / "a.dcm").read_bytes()

    def long(first: bytes, last: bytes = b""):
        yield first
        for _ in range(256):
            yield piece
        yield last

    assert client.post("/studies", long(start), "application/dicom").status_code == 200
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.zip"\r\n\r\n'
    assert client.post("/jobs", long(form + b"PK", b"\r\n--b--"), "multipart/form-data; boundary=b").status_code == 422
    assert client.post("/studies", long(b"--b\r\nX: "), KIND).status_code == 400
    assert peak_of(client.process.pid) - before < 64
