"""Whatever is killed and whenever: every file that was sent has exactly one outcome, and the right one.

``CHAOS_KILLS`` sets how many processes are killed and ``CHAOS_SEED`` the seed; ``make chaos`` is the long run. In between the
disk is full for a while, and connections break: of whoever sends, and of every process to Redis and PostgreSQL.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import func, select

from slicewise.db import questions
from slicewise.db.models import Arrival, Result
from slicewise.worker import pipeline
from slicewise.worker.intake.receiving.heading import heading
from slicewise.worker.model import session as model_session
from slicewise.worker.queue import embedded
from tests.chaos.world import Disk, World, until_it_works

KILLS = int(os.environ.get("CHAOS_KILLS", "12"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))

# A long run would otherwise be over long before its files are.
PAUSE = min(5.0, KILLS / 200)

pytestmark = pytest.mark.timeout(600 + 20 * KILLS)


@pytest.fixture(params=["embedded", "servers"])
def world(request, tmp_path_factory, small_model):
    """Everything on one host with nothing installed; or Redis and PostgreSQL as servers, behind lines that break."""
    home, elsewhere = tmp_path_factory.mktemp("c"), tmp_path_factory.mktemp("e")
    environment = {
        **os.environ,
        "SLICEWISE_HOME": str(home),
        "SLICEWISE_MODEL": str(small_model),
        "SLICEWISE_JOB_FILES": "8",
    }
    made = World(environment, home, SEED)
    try:
        made.disk = Disk(home)
    except subprocess.CalledProcessError as error:
        # A long run wants every fault; a short one does without where nothing may be mounted.
        if KILLS >= 100:
            pytest.fail(f"a disk that can be full has to be mounted, as root: {error.stderr.decode()}")
        print("chaos: no disk can be mounted here, so none is ever full")
    if request.param == "servers":
        server = request.getfixturevalue("own_postgres")
        line = made.through(server.socket)
        environment["SLICEWISE_DATABASE_URL"] = f"{server.make().partition('@')[0]}@127.0.0.1:{line}/{server.made}"
        made.serve("postgres", lambda: server.start() or server.server, server.server)
        line = made.through(f"{elsewhere}/redis.sock")
        environment["SLICEWISE_BROKER_URL"] = f"redis://127.0.0.1:{line}/0"
        made.serve("redis", lambda: embedded.start(elsewhere, elsewhere / "log"))
    else:
        made.killing("redis")
    made.killing("up", "worker", "submit", "watch", "receive", "serve")
    begin(made, elsewhere)
    yield made
    if made.disk:
        made.disk.close()


def begin(made, elsewhere):
    """What runs all the time."""
    made.add("up", "up")
    port = _free_port()
    made.add("receive", "receive", "--port", port, "--processes", "2", "--gather", "1", "--reserve", "0")
    made.dicom = made.through(("127.0.0.1", port))
    port = _free_port()
    made.add("serve", "serve", "--port", port, "--processes", "2", "--gather", "1", "--silent", "5", "--reserve", "0")
    made.http = made.through(("127.0.0.1", port))
    made.drop = elsewhere / "drop"
    made.drop.mkdir()
    made.add("watch", "watch", made.drop, "--quiet", "0.3", "--rescan", "1", "--gather", "1", "--reserve", "0")


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def files(write_dicom, write_jpeg, tmp_path):
    """Makes distinct files, as many as are wanted: most are slices, every seventh has to be refused."""
    numbers = itertools.count()

    def make(count, *, objects=False):
        made = []
        for _ in range(count):
            n = next(numbers)
            path = tmp_path / "sent" / f"{n:05}"
            series = {"SeriesInstanceUID": f"1.2.826.0.1.3680043.8.498.2.{n // 12}"}
            if objects:
                write_dicom(path, seed=SEED + n, **series, Modality="CT" if n % 7 == 6 else "MR")
            elif n % 7 == 6:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"no scan, number {n}")
            else:
                write_jpeg(path, seed=SEED + n) if n % 5 == 4 else write_dicom(path, seed=SEED + n, **series)
            made.append(path)
        return made

    return make


def submitter(world, files, over, sent):
    """A person at a terminal, who tries again until the command says that all is well."""
    while not over.wait(PAUSE):
        batch = files(12)
        until_it_works(lambda batch=batch: world.command("submit", *batch))
        sent.extend(batch)


def dropper(world, files, over, sent):
    """A scanner's export: writes into the watched folder, piece by piece, and looks whether all has been taken."""
    folder = world.drop
    while not over.wait(PAUSE):
        batch = files(12)
        for path in batch:
            with (folder / path.name).open("wb", buffering=0) as writing:
                for piece in (
                    path.read_bytes()[start : start + 20_000] for start in range(0, path.stat().st_size, 20_000)
                ):
                    writing.write(piece)
                    time.sleep(0.01)
        sent.extend(batch)
        deadline = time.monotonic() + 600
        while left := [path for path in folder.iterdir() if path.is_file()]:
            assert time.monotonic() < deadline, f"{len(left)} files were never taken"
            time.sleep(0.2)


def modality(world, files, over, sent):
    """Sends by C-STORE over a line that is cut now and then, and sends again what was not answered with success."""
    while not over.wait(PAUSE):
        batch = files(12, objects=True)
        until_it_works(
            lambda batch=batch: subprocess.Popen(
                ["storescu", "-aec", "SLICEWISE", "-to", "10", "-td", "20", "127.0.0.1", str(world.dicom), *batch],
                env={**os.environ, "TCP_NODELAY": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        world.received.extend(batch)
        sent.extend(batch)


def archive(world, files, over, sent):
    """Stores by DICOMweb over such a line, until all is answered as stored."""
    while not over.wait(PAUSE):
        batch = files(12, objects=True)
        parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() for path in batch]
        body = b"\r\n".join(parts) + b"\r\n--b--\r\n"
        deadline = time.monotonic() + 600
        while _stored(world.http, body) != len(batch):
            assert time.monotonic() < deadline, "a message was never stored"
            time.sleep(0.2)
        sent.extend(batch)


def _stored(port, body):
    """How many instances of a message are answered as stored, where all are; 0 where anything goes wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            "POST", "/studies", body, {"Content-Type": "multipart/related; boundary=b", "Host": "localhost"}
        )
        answer = connection.getresponse()
        return len(json.load(answer)["00081199"]["Value"]) if answer.status == 200 else 0
    except (OSError, http.client.HTTPException, ValueError):
        return 0
    finally:
        connection.close()


def test_nothing_is_lost_and_nothing_is_counted_twice(world, files, opened, small_model, tmp_path):
    print(f"chaos: {KILLS} kills, seed {SEED}", flush=True)
    over, sent, broken = threading.Event(), [], []
    feeds = (submitter, dropper, modality, archive)
    feeders = [_thread(lambda feed=feed: feed(world, files, over, sent), broken) for feed in feeds]
    with world.alive():
        world.strike_at_random(KILLS, (0.1, 2.0))
        over.set()
        for feeder in feeders:
            feeder.join()
        assert not broken, broken
        # Whoever counts has to be able to.
        for line in world.lines:
            line.breaks = False
        with opened(
            world.environment.get("SLICEWISE_DATABASE_URL") or f"sqlite:///{world.home}/slicewise.sqlite3"
        ) as database:
            retried = _drain(world, database)
            reconciled = _reconcile(world, tmp_path / "sent")
            with database.reading() as session:
                rows = list(questions.results(session))
                counted = session.scalar(select(func.count()).select_from(Result))
                arrivals = session.scalar(select(func.count()).select_from(Arrival))
    print(
        f"chaos: killed {dict(world.kills)}; {sum(line.cuts for line in world.lines)} connections cut, "
        f"the disk full {world.disk.times if world.disk else 0} times; {len(sent)} files, {arrivals} arrivals, "
        f"{retried} jobs retried by hand"
    )
    assert len(world.victims) > KILLS or world.kills.keys() == world.victims.keys()
    assert Counter(row["state"] for row in reconciled).keys() <= {"labelled", "refused"}
    assert len(reconciled) == len(sent)
    # One outcome each, no more and no less, and that of an undisturbed run.
    assert counted == len(rows) == len(sent)
    by_object = set(world.received)
    contents = {path: _as_received(path) if path in by_object else path.read_bytes() for path in sent}
    assert {row["content_sha256"]: _told(row) for row in rows} == _undisturbed(small_model, contents)


def _thread(work, broken):
    def guarded():
        try:
            work()
        except BaseException as error:
            broken.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    return thread


def _drain(world, database, seconds=300):
    """Wait until no job waits; dead ones are brought back, as an operator would. How many were."""
    retried, before, deadline = 0, None, time.monotonic() + seconds
    while time.monotonic() < deadline:
        with database.reading() as session:
            counts = questions.job_counts(session)
        if not counts.keys() - {"done", "dropped"}:
            return retried
        if counts != before:
            before, deadline = counts, time.monotonic() + seconds
        if counts.get("dead"):
            retried += counts["dead"]
            until_it_works(lambda: world.command("dead", "retry", "--all"))
        time.sleep(0.5)
    raise AssertionError(
        f"nothing moves for {seconds} s: {counts}; {(world.home / 'logs/worker.log').read_text()[-3000:]}"
    )


def _reconcile(world, folder):
    words = [sys.executable, "-m", "slicewise.worker.cli", "reconcile", folder, "--format", "json"]
    done = subprocess.run(words, env=world.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return json.loads(done.stdout)


def _told(row):
    return row["status"], row["label"], row["reason"], row["probabilities"]


def _undisturbed(bundle, contents):
    model = model_session.load(bundle)
    assessed = pipeline.assess(model, ((path, path) for path in contents))
    return {sha256(contents[path]).hexdigest(): _of(answer) for path, _, (answer,) in assessed}


def _of(answer):
    return str(answer.status), answer.label, answer.reason and str(answer.reason), answer.probabilities


def _as_received(path: Path) -> bytes:
    """A file as a receiver keeps its data set: behind another heading."""
    meta = pydicom.filereader.read_file_meta_info(path)
    data_set = path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]
    return heading(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) + data_set
