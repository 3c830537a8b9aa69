"""A receiver, in this process or as a user starts it, and the real peers that send to it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pynetdicom
import pytest

from slicewise.worker import processes
from slicewise.worker.intake.receiving.callers import Callers
from slicewise.worker.intake.receiving.committer import Committer
from slicewise.worker.intake.receiving.reception import Reception
from slicewise.worker.intake.receiving.server import Bounds, Server
from tests.books import Books

# Nagle's algorithm in dcmtk's tools would hold up every object for 46 ms.
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


class Peers:
    """dcmtk's tools and pynetdicom, pointed at a port."""

    def __init__(self, port: int, called: str = "SLICEWISE") -> None:
        self.port, self.called = port, called

    def run(self, tool: str, *words: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """A dcmtk tool; a status other than `status` fails the test, unless that is None."""
        assert shutil.which(tool), f"{tool} is missing: apt-get install dcmtk"
        done = subprocess.run(
            [tool, "-v", "-aet", "MODALITY", "-aec", self.called, *map(str, words)],
            env=_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert status is None or done.returncode == status, done.stderr
        return done

    def storescu(self, *words: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("storescu", "127.0.0.1", self.port, *words, status=status)

    def echoscu(self, *words: object, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("echoscu", *words, "127.0.0.1", self.port, status=status)

    @contextmanager
    def association(
        self, *files: Path, calling: str = "PEER", **more: object
    ) -> Iterator[pynetdicom.association.Association]:
        """An association of pynetdicom's that proposes what these files need."""
        application = pynetdicom.AE(calling)
        application.add_requested_context(pynetdicom.sop_class.Verification)
        for path in files:
            meta = pydicom.filereader.read_file_meta_info(path)
            application.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
        association = application.associate("127.0.0.1", self.port, ae_title=self.called, **more)
        connection = association.dul.socket.socket
        try:
            yield association
        finally:
            if association.is_established:
                association.release()
            association.join(30)
            if connection:
                # pynetdicom leaves it open where the peer has gone.
                connection.close()

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as made:
            yield made


class Scp(Peers, Books):
    """A server in a thread of this process."""

    def __init__(self, port: int, database, spool: Path, bells: list[int]) -> None:
        Peers.__init__(self, port)
        Books.__init__(self, database, spool)
        self.bells = bells


@pytest.fixture
def serve(database, settings) -> Iterator[Callable[..., Scp]]:
    """Serve in this process: `serve()`, as often as a test likes."""
    stop, threads, listeners = threading.Event(), [], []

    def begin(
        *,
        calling: tuple[str, ...] = (),
        networks: tuple[object, ...] = (),
        bounds: Bounds = Bounds(),  # noqa: B008
        reserve: int = 0,
        job_files: int = 256,
        tls: object = None,
    ) -> Scp:
        listening = processes.listen("127.0.0.1", 0)
        listeners.append(listening)
        bells: list[int] = []
        committer = Committer(database, lambda job, _lane: bells.append(job), job_files=job_files, quiet_seconds=60)
        reception = Reception(settings.spool, committer, reserve_bytes=reserve)
        server = Server(listening, Callers("SLICEWISE", calling, networks), reception, bounds, tls)
        threads.append(threading.Thread(target=server.serve, args=(stop,)))
        threads[-1].start()
        return Scp(listening.getsockname()[1], database, settings.spool, bells)

    yield begin
    stop.set()
    for thread in threads:
        thread.join()
    for listening in listeners:
        listening.close()


@pytest.fixture
def scp(serve) -> Scp:
    return serve()


@pytest.fixture
def receive(start, slicewise, settings) -> Callable[..., Peers]:
    """Start ``slicewise receive`` as a user does; `process` is what was started."""
    slicewise("db", "upgrade")

    def begin(*words: object, **environment: str) -> Peers:
        process = start("receive", "--port", 0, "--reserve", 0, *words, **environment)
        said = process.stdout.readline()
        found = re.search(r"port (\d+)", said)
        assert found, f"it said {said!r}"
        peers = Peers(int(found.group(1)))
        peers.process = process
        return peers

    return begin


@pytest.fixture
def books(settings, opened) -> Iterator[Books]:
    """The books of a receiver that was started as a user does."""
    with opened(settings.database_url) as database:
        yield Books(database, settings.spool)
