"""``slicewise receive`` as a process: killed, stopped, doubled, without its database, and pointed at by a PACS."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
import pytest


def uids(books) -> list[str]:
    """The SOP Instance UIDs of what has arrived."""
    return [str(one["source"]).rpartition("/")[2] for one in books.arrivals()]


def slices(folder: Path, write_dicom, count: int) -> list[Path]:
    return [write_dicom(folder / f"{number:03}.dcm", seed=number) for number in range(count)]


def send(association, files) -> list[str]:
    """Send until it breaks; the UIDs of what was answered with success."""
    done = []
    for path in files:
        dataset = pydicom.dcmread(path)
        try:
            answer = association.send_c_store(dataset)
        except RuntimeError:  # there is no association any more
            break
        if "Status" not in answer or answer.Status:
            break
        done.append(str(dataset.SOPInstanceUID))
    return done


# --- killed and stopped ----------------------------------------------------------------------------------------


def test_what_was_answered_before_a_kill_is_kept_and_the_rest_may_be_sent_again(
    receive, books, tmp_path, write_dicom, wait_until
):
    files = slices(tmp_path, write_dicom, 60)
    receiver = receive()

    def kill() -> None:
        wait_until(lambda: len(books.arrivals()) >= 5)
        receiver.process.send_signal(signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    with receiver.association(*files) as association:
        answered = send(association, files)
    killing.join()
    receiver.process.wait()
    assert 4 <= len(answered) < 60
    assert set(answered) <= set(uids(books))
    for arrival in books.arrivals():
        assert books.file(arrival).stat().st_size == arrival["size_bytes"]
    receive().storescu(*files)
    assert len(set(uids(books))) == 60
    assert len(books.kept()) == 60


def test_nothing_is_scored_twice_after_a_kill(
    receive, quick, books, tmp_path, write_dicom, wait_until, start, slicewise
):
    """Arrivals that the sender did not hear of are sent again: the content has one result."""
    files = slices(tmp_path, write_dicom, 12)
    receiver = receive()
    receiver.storescu(*files[:8])
    receiver.process.send_signal(signal.SIGKILL)
    receiver.process.wait()
    receiver = receive("--gather", 1)
    receiver.storescu(*files)
    up = start("up")
    wait_until(lambda: all(job.status == "done" for job in books.jobs()))
    rows = json.loads(slicewise("results", "--format", "json").stdout)
    assert len(books.arrivals()) == 20
    assert len(rows) == len({row["content_sha256"] for row in rows}) == 12
    up.terminate()
    assert up.wait() == 0


def test_a_job_left_open_by_a_kill_is_closed_by_the_sweeper(
    receive, quick, books, tmp_path, write_dicom, wait_until, start
):
    receiver = receive("--gather", 1)
    files = slices(tmp_path, write_dicom, 3)
    with receiver.association(*files) as association:
        assert len(send(association, files)) == 3
        assert [job.status for job in books.jobs()] == ["open"]
        receiver.process.send_signal(signal.SIGKILL)
        receiver.process.wait()
    start("up")
    wait_until(lambda: [job.status for job in books.jobs()] == ["done"])


def test_a_receiver_that_is_stopped_finishes_what_it_has_begun(receive, books, tmp_path, write_dicom):
    files = slices(tmp_path, write_dicom, 40)
    receiver = receive()
    with receiver.association(*files) as association:
        answered = send(association, files[:3])
        receiver.process.send_signal(signal.SIGTERM)
        answered += send(association, files[3:])
    assert receiver.process.wait(60) == 0
    assert uids(books) == answered
    assert {job.status for job in books.jobs()} == {"pending"}
    assert books.half() == []


def test_a_receiver_that_serves_nobody_stops_at_once(receive):
    for words in ((), ("--processes", 2)):
        receiver = receive(*words)
        receiver.echoscu()
        receiver.process.send_signal(signal.SIGINT)
        assert receiver.process.wait(30) == 0


# --- several processes -----------------------------------------------------------------------------------------


def workers(processes) -> set[int]:
    return {number for number, command in processes().items() if " receive " in command}


def test_a_receiver_that_dies_is_started_again(receive, books, processes, tmp_path, write_dicom, wait_until):
    receiver = receive("--processes", 2)
    wait_until(lambda: len(workers(processes)) == 3)
    first = workers(processes) - {receiver.process.pid}
    for number in first:
        os.kill(number, signal.SIGKILL)
    wait_until(lambda: len(workers(processes)) == 3 and not workers(processes) & first)
    receiver.storescu(*slices(tmp_path, write_dicom, 5))
    assert len(books.arrivals()) == 5
    receiver.process.send_signal(signal.SIGTERM)
    assert receiver.process.wait(60) == 0
    assert not workers(processes)


def test_receivers_do_not_outlive_a_killed_parent(receive, processes, wait_until):
    receiver = receive("--processes", 2)
    wait_until(lambda: len(workers(processes)) == 3)
    receiver.process.send_signal(signal.SIGKILL)
    receiver.process.wait()
    wait_until(lambda: not workers(processes))


def test_several_processes_take_from_several_peers(receive, books, tmp_path, write_dicom):
    files = slices(tmp_path, write_dicom, 40)
    receiver = receive("--processes", 2)
    threads = [threading.Thread(target=receiver.storescu, args=files[first::4]) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(uids(books))) == len(books.arrivals()) == 40


def test_a_length_that_nobody_can_mean_costs_no_memory(receive):
    receiver = receive()
    receiver.echoscu()

    def most() -> int:
        status = Path(f"/proc/{receiver.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    before = most()
    for kind in (1, 4, 0x99):
        with receiver.connection() as connection:
            connection.sendall(struct.pack(">BBI", kind, 0, 0xFFFFFFF0))
            while connection.recv(4096):
                pass
    assert most() - before < 32
    receiver.echoscu()


# --- what it needs ---------------------------------------------------------------------------------------------


def test_a_database_that_is_away_is_no_loss(
    own_postgres, receive, opened, tmp_path, write_dicom, monkeypatch, wait_until
):
    url = own_postgres.make()
    monkeypatch.setenv("SLICEWISE_DATABASE_URL", url)
    with opened(url) as database:
        database.upgrade()
    receiver, path = receive(), write_dicom(tmp_path / "a.dcm")
    own_postgres.stop()
    done = receiver.storescu(path, status=None)
    assert "Refused: OutOfResources" in done.stdout + done.stderr
    own_postgres.start()
    wait_until(own_postgres._answers)
    receiver.storescu(path)


def test_a_port_that_is_taken_is_said(slicewise):
    slicewise("db", "upgrade")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = slicewise("receive", "--port", taken.getsockname()[1], status=78)
    assert "give another --port" in done.stderr


def test_it_does_not_listen_to_everybody(slicewise):
    done = slicewise("receive", "--address", "0.0.0.0", status=78)
    assert "--allow" in done.stderr
    assert "--tls-ca" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--address", "nowhere"), "no IP address"),
        (("--tls-ca", "ca.pem"), "need --tls-cert"),
        (("--tls-cert", "missing.pem"), "TLS files cannot be used"),
        (("--address", "192.0.2.1", "--allow", "192.0.2.0/24"), "cannot listen"),
        ((), "db upgrade"),
    ],
)
def test_what_has_to_be_set_right_is_said(slicewise, words, says):
    if words:
        slicewise("db", "upgrade")
    assert says in slicewise("receive", *words, status=78).stderr


@pytest.mark.parametrize(
    "words",
    [("--aet", "A" * 17), ("--calling", "A\\B"), ("--allow", "10.1.2.3/8"), ("--port", "70000"), ("--idle", "0")],
)
def test_what_is_mistyped_is_said(slicewise, words):
    slicewise("receive", *words, status=2)


# --- Orthanc ---------------------------------------------------------------------------------------------------


def test_orthanc_sends_a_study(receive, orthanc, books, tmp_path, write_dicom, wait_until):
    receiver = receive("--calling", "ORTHANC")
    pacs = orthanc(receiver.port)
    files = slices(tmp_path / "study", write_dicom, 6)
    instances = [pacs.add(path) for path in files]
    pacs.echo("slicewise")
    sent = pacs.store("slicewise", instances)
    assert (sent["InstancesCount"], sent["FailedInstancesCount"]) == (6, 0)
    assert {one["sender"] for one in books.arrivals()} == {"ORTHANC@127.0.0.1"}
    for arrival in books.arrivals():
        kept = pydicom.dcmread(books.file(arrival))
        assert kept == pydicom.dcmread(files[int(kept.SOPInstanceUID.rpartition(".")[2]) - 1])
    # Orthanc keeps its association open for a while: the jobs close when they have been quiet, or with it.
    wait_until(lambda: len(set(uids(books))) == 6)


def test_orthanc_is_told_that_it_may_not(receive, orthanc, tmp_path, write_dicom, books):
    receiver = receive("--calling", "SOMEBODY")
    pacs = orthanc(receiver.port)
    with pytest.raises(urllib.error.HTTPError):
        pacs.echo("slicewise")
    with pytest.raises(urllib.error.HTTPError):
        pacs.store("slicewise", [pacs.add(write_dicom(tmp_path / "a.dcm"))])
    assert books.arrivals() == []
