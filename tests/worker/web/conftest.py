"""A server, in this process or as a user starts it, and what speaks to it."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import requests

from slicewise.db.questions import Model
from slicewise.db.records import Lane
from slicewise.worker import processes
from slicewise.worker.imaging import PREPROCESS_VERSION
from slicewise.worker.intake.receiving.committer import Committer
from slicewise.worker.intake.receiving.reception import Reception
from slicewise.worker.web import server
from slicewise.worker.web.application import application
from slicewise.worker.web.body import Bounds
from slicewise.worker.web.door import Admission
from slicewise.worker.web.uploads import Uploads
from tests.books import Books
from tests.line import hang_up

MODEL = Model("0" * 64, PREPROCESS_VERSION)


class Client:
    """Speaks to a port; `get` and `post` as requests has them, `connection` for what requests would not send."""

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.port, self.url = port, f"{scheme}://127.0.0.1:{port}"
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path: str, **more: object) -> requests.Response:
        return self.session.get(self.url + path, timeout=120, **more)

    def post(self, path: str, data: object = None, kind: str | None = None, **more: object) -> requests.Response:
        headers = {**({"Content-Type": kind} if kind else {}), **more.pop("headers", {})}
        return self.session.post(self.url + path, data=data, headers=headers, timeout=120, **more)

    def stow(self, *bodies: bytes, study: str = "", **more: object) -> requests.Response:
        """Store instances as one multipart message."""
        return self.post(f"/studies{study}", related(*bodies), RELATED, **more)

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as made:
            yield made

    def say(self, *pieces: bytes, last: bool = False) -> bytes:
        """Send bytes, and hear everything until the server closes; `last` tells it that no more will come."""
        with self.connection() as made:
            with suppress(ConnectionError):
                for piece in pieces:
                    made.sendall(piece)
                if last:
                    hang_up(made)
            return heard(made)

    def close(self) -> None:
        self.session.close()


def heard(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    said = b""
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            said += piece
    return said


RELATED = 'multipart/related; type="application/dicom"; boundary=b'


def related(*bodies: bytes, end: bytes = b"\r\n--b--\r\n") -> bytes:
    """A multipart/related message."""
    return b"\r\n".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + body for body in bodies) + end


class Face(Client, Books):
    """A server in a thread of this process."""

    def __init__(self, listening: socket.socket, database, spool: Path) -> None:
        Client.__init__(self, listening.getsockname()[1])
        Books.__init__(self, database, spool)
        self.bells: list[int] = []
        self._listening = listening

    def runs(self, served, uploads: Uploads) -> None:
        """It is served by this, and takes in by that."""
        self._served, self._uploads = served, uploads
        self._thread = threading.Thread(target=served.run, args=([self._listening],))
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.close()
        self._served.should_exit = True
        self._thread.join()
        self._uploads.__exit__()

    def sources(self) -> list[str]:
        return [str(one["source"]) for one in self.arrivals()]


@pytest.fixture
def serve_with(settings) -> Iterator[Callable[..., Face]]:
    """Serve in this process, with a database: `serve_with(database)`, as often as a test likes."""
    began = []

    def begin(
        database,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008
        admission: Admission = Admission(),  # noqa: B008
        reserve: int = 0,
        job_files: int = 256,
    ) -> Face:
        face = Face(processes.listen("127.0.0.1", 0), database, settings.spool)

        def reception(way: str, lane: Lane) -> Reception:
            committer = Committer(
                database,
                lambda job, _lane: face.bells.append(job),
                job_files=job_files,
                quiet_seconds=60,
                lane=lane,
                way=way,
            )
            return Reception(settings.spool, committer, reserve_bytes=reserve)

        uploads = Uploads(reception, bounds)
        served = application(
            uploads=uploads,
            database=database,
            reception=reception("http", Lane.ROUTINE),
            model=lambda: MODEL,
            admission=admission,
        )
        face.runs(server.make(served, None), uploads)
        began.append(face)
        return face

    yield begin
    for face in began:
        face.stop()


@pytest.fixture
def serve(database, serve_with) -> Callable[..., Face]:
    """Serve in this process: `serve()`, as often as a test likes."""
    return partial(serve_with, database)


@pytest.fixture
def face(serve) -> Face:
    return serve()


@pytest.fixture
def served(start, slicewise) -> Iterator[Callable[..., Client]]:
    """Start ``slicewise serve`` as a user does; `process` is what was started."""
    slicewise("db", "upgrade")
    clients = []

    def begin(*words: object, **environment: str) -> Client:
        process = start("serve", "--port", 0, "--reserve", 0, *words, **environment)
        said = process.stdout.readline()
        found = re.search(r"(https?)://127.0.0.1:(\d+)", said)
        assert found, f"it said {said!r}"
        clients.append(Client(int(found.group(2)), found.group(1)))
        clients[-1].process = process
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def books(settings, opened) -> Iterator[Books]:
    """The books of a server that was started as a user does."""
    with opened(settings.database_url) as database:
        yield Books(database, settings.spool)


@pytest.fixture(name="related")
def _related():
    return related


@pytest.fixture(name="heard")
def _heard():
    return heard
