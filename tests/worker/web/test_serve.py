"""``slicewise serve`` as a process: killed, stopped, doubled, secured, wrongly started."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import threading

import pytest
import requests

from tests.authority import Authority

KIND = 'multipart/related; type="application/dicom"; boundary=b'


def uids(books) -> set[str]:
    return {str(one["source"]).rpartition("/")[2] for one in books.arrivals()}


@pytest.fixture
def bodies(tmp_path, write_dicom):
    return lambda count: [write_dicom(tmp_path / "a.dcm", seed=n).read_bytes() for n in range(count)]


def test_what_was_answered_before_a_kill_is_kept_and_the_rest_may_be_sent_again(served, books, bodies, wait_until):
    sent = bodies(60)
    client = served()

    def kill() -> None:
        wait_until(lambda: len(books.arrivals()) >= 5)
        client.process.send_signal(signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    answered: set[str] = set()
    for start in range(0, 60, 2):
        try:
            answer = client.stow(*sent[start : start + 2])
        except requests.RequestException:  # the kill may come in the middle of an answer, too
            break
        items = answer.json()["00081199"]["Value"]
        answered |= {item["00081155"]["Value"][0] for item in items}
    killing.join()
    client.process.wait()
    assert 4 <= len(answered) < 60
    assert answered <= uids(books)
    for arrival in books.arrivals():
        assert books.file(arrival).stat().st_size == arrival["size_bytes"]
    assert served().stow(*sent).status_code == 200
    assert len(uids(books)) == len(books.kept()) == 60


def test_an_upload_that_is_under_way_is_finished_before_it_stops(served, books, bodies, related, wait_until, heard):
    whole = related(*bodies(3))
    client = served()
    head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND}\r\nContent-Length: {len(whole)}\r\n\r\n"
    with client.connection() as connection:
        connection.sendall(head.encode() + whole[:-1000])
        wait_until(lambda: len(books.arrivals()) == 2)
        client.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not reachable(client.port))
        connection.sendall(whole[-1000:])
        assert heard(connection).startswith(b"HTTP/1.1 200 ")
    assert client.process.wait(60) == 0
    assert len(books.arrivals()) == 3
    assert {job.status for job in books.jobs()} == {"pending"}


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def test_a_job_left_open_by_a_kill_is_closed_by_the_sweeper(served, quick, books, bodies, related, wait_until, start):
    client = served("--gather", 1)
    whole = related(*bodies(3))
    head = f"POST /studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND}\r\nContent-Length: {len(whole)}\r\n\r\n"
    with client.connection() as connection:
        connection.sendall(head.encode() + whole[:-1000])
        wait_until(lambda: len(books.arrivals()) == 2)
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    assert [job.status for job in books.jobs()] == ["open"]
    start("up")
    wait_until(lambda: [job.status for job in books.jobs()] == ["done"])


def test_a_server_that_dies_is_started_again(served, books, bodies, processes, wait_until):
    def workers() -> set[int]:
        return {number for number, command in processes().items() if " serve " in command}

    client = served("--processes", 2)
    wait_until(lambda: len(workers()) == 3)
    first = workers() - {client.process.pid}
    for number in first:
        os.kill(number, signal.SIGKILL)
    wait_until(lambda: len(workers()) == 3 and not workers() & first)
    assert client.stow(*bodies(5)).status_code == 200
    assert len(books.arrivals()) == 5
    client.process.send_signal(signal.SIGINT)
    assert client.process.wait(60) == 0


def test_with_tls_and_a_token(served, slicewise, books, tmp_path, bodies):
    key, certificate = Authority(tmp_path / "tls").sign("localhost")
    done = slicewise("token", "pacs")
    (tmp_path / "tokens").write_text(done.stdout)
    client = served("--tls-cert", certificate, "--tls-key", key, "--tokens", tmp_path / "tokens")
    assert client.url.startswith("https")
    trusted = ssl.create_default_context(cafile=tmp_path / "tls" / "ca.pem")
    trusted.check_hostname = False
    for token, status in (("wrong", 401), (done.stderr.split()[-1], 200)):
        connection = http.client.HTTPSConnection("127.0.0.1", client.port, context=trusted)
        headers = {"Content-Type": "application/dicom", "Authorization": f"Bearer {token}"}
        connection.request("POST", "/studies", bodies(1)[0], headers)
        assert connection.getresponse().status == status
        connection.close()
    assert [one["sender"] for one in books.arrivals()] == ["pacs@127.0.0.1"]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--address", "0.0.0.0"], 78, "--tokens"),
        (["--address", "nowhere"], 78, "no IP address"),
        (["--behind-proxy", "proxy"], 78, "no IP address"),
        (["--tokens", "/nowhere"], 78, "cannot be read"),
        (["--tls-key", "/nowhere"], 78, "--tls-cert"),
        (["--tls-cert", "/nowhere"], 78, "TLS files"),
        (["--port", "70000"], 2, "port"),
        (["--uploads", "0"], 2, "at least 1"),
    ],
)
def test_what_is_wrongly_started_says_why(slicewise, words, status, says):
    slicewise("db", "upgrade")
    assert says in slicewise("serve", *words, status=status).stderr


def test_without_a_database_it_says_what_to_do(slicewise):
    assert "slicewise db upgrade" in slicewise("serve", "--port", 0, status=78).stderr


def test_a_taken_port_is_said(served, slicewise):
    client = served()
    assert "another --port" in slicewise("serve", "--port", client.port, status=78).stderr


def test_what_came_by_http_is_reconciled(served, quick, start, slicewise, tmp_path, write_dicom, wait_until, books):
    up = start("up")
    wait_until(lambda: "is up" in up.stdout.readline())
    paths = [write_dicom(tmp_path / "in" / f"{n}.dcm", seed=n) for n in range(4)]
    client = served()
    assert client.stow(*(path.read_bytes() for path in paths[:2])).status_code == 200
    assert client.post("/jobs", paths[2].read_bytes()).status_code == 202
    wait_until(lambda: {job.status for job in books.jobs()} == {"done"})
    items = json.loads(slicewise("reconcile", tmp_path / "in", "--format", "json", status=1).stdout)
    assert [item["state"] for item in items] == ["labelled"] * 3 + ["missing"]
