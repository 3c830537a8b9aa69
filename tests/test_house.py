"""The rules of the house that no linter knows: what may import what, what may be broad, what ships."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# From the bottom up: a part imports itself and what stands before it.
PARTS = ("db", "worker", "export", "trainer")

# The boundaries: whatever comes is caught here and nowhere else. File, function, and what it turns it into.
BROAD = {
    ("worker/imaging/foreign.py", "refusing"): "a refusal: a foreign parser raises anything",
    ("worker/imaging/frames.py", "_array"): "the next decoder, in the end a refusal",
    ("worker/model/session.py", "load"): "Misconfigured: onnxruntime's errors share no base",
    ("worker/pipeline.py", "prepare"): "a failure of this file, not of its neighbours",
    ("worker/intake/receiving/committer.py", "_settle"): "an answer to everybody who waits for the commit",
    ("worker/intake/receiving/messages.py", "receive_primitive"): "the end of an association",
    ("worker/intake/receiving/upper_layer.py", "run_reactor"): "the end of an association",
    ("worker/intake/receiving/upper_layer.py", "_read_pdu_data"): "the end of an association: pynetdicom's parsers",
    ("worker/web/door.py", "_serve"): "an answer to the request",
    ("worker/queue/work.py", "on_job"): "the task: the jobs are handed back, the error goes on",
    ("worker/queue/app.py", "_sweep"): "the timer: the next sweep tries again",
    ("export/backend.py", "_quiet"): "nothing: what was held back is shown, the error goes on",
}

# What a worker never loads, directly or through what it imports.
TRAINING = {"tensorflow", "keras", "tf2onnx", "onnx", "matplotlib"}

# What would make `slicewise --help` slow.
HEAVY = {
    "numpy",
    "sqlalchemy",
    "celery",
    "kombu",
    "redis",
    "pydicom",
    "pynetdicom",
    "onnxruntime",
    "PIL",
    "rich",
    *TRAINING,
}


def sources(*parts: str) -> list[Path]:
    return [path for part in parts or PARTS for path in sorted((ROOT / part).rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it: at the top, in a function, for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{relative(path)}:{node.lineno}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tracked() -> list[Path]:
    """Files of the repository: what git has, and what it would take."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, capture_output=True, check=True).stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file() and not path.is_symlink()]


def python(code: str, *, isolated: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose user has an empty home."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words,
        env={**clean, "HOME": str(isolated), **environment},
        cwd=isolated,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


# --- imports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_imports_run_one_way(part):
    allowed = set(PARTS[: PARTS.index(part) + 1])
    for path in sources(part):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("slicewise.")}
        assert used <= allowed, f"{relative(path)} imports upward: {', '.join(sorted(used - allowed))}"


def test_the_parts_are_imported_by_their_full_name():
    for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        bare = {name for name in imported(path) if name.split(".")[0] in PARTS}
        assert not bare, f"{relative(path)} imports {bare}: from the root that is a second copy"


def test_sqlalchemy_stays_in_the_database():
    for path in sources("worker", "export", "trainer"):
        found = {
            name for name in imported(path) if name.split(".")[0] in {"sqlalchemy", "alembic", "sqlite3", "psycopg"}
        }
        assert not found, f"{relative(path)} imports {found}: ask slicewise.db"


def test_there_is_no_sql_outside_the_database():
    statement = re.compile(
        r"^\s*(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s.+\sSET|DELETE\s+FROM|CREATE\s+TABLE|PRAGMA)\b", re.DOTALL
    )
    for path in sources("worker", "export", "trainer"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not statement.match(node.value), f"{relative(path)}:{node.lineno}: SQL outside db/"


def test_imaging_and_pipeline_know_no_queue_and_no_database():
    for path in [*sources("worker/imaging"), ROOT / "worker/pipeline.py"]:
        forbidden = ("celery", "kombu", "redis", "slicewise.db.engine", "slicewise.db.writes", "slicewise.db.questions")
        found = {name for name in imported(path) if name.startswith(forbidden)}
        assert not found, f"{relative(path)} imports {found}"


def test_no_module_is_a_drawer_for_everything():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    found = [relative(p) for p in [*sources(), *(ROOT / "tests").rglob("*.py")] if drawers & {p.stem, *p.parts}]
    assert not found


def test_a_worker_loads_nothing_of_training(tmp_path):
    code = (
        "import sys\n"
        "import slicewise.worker.queue.app, slicewise.worker.queue.work, slicewise.worker.pipeline\n"
        "import slicewise.worker.commands, slicewise.worker.service, slicewise.worker.progress, slicewise.worker.report\n"
        "import slicewise.worker.isolated, slicewise.worker.doctor, slicewise.worker.imaging.dicom\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
        "print(*sys.modules)"
    )
    top, every = python(code, isolated=tmp_path).stdout.splitlines()
    assert not TRAINING & set(top.split())
    upward = [name for name in every.split() if name.startswith(("slicewise.export", "slicewise.trainer"))]
    assert not upward


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys\n"
        "from slicewise.worker.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(python(code, isolated=tmp_path).stdout.splitlines()[-1].split())
    assert "slicewise" in loaded
    assert not HEAVY & loaded


def test_settings_are_not_read_on_import(tmp_path):
    # A value out of range would stop whoever reads it.
    code = "import slicewise.worker.queue.app, slicewise.worker.commands, slicewise.worker.doctor"
    python(code, isolated=tmp_path, SLICEWISE_THREADS="a mistake")


@pytest.mark.parametrize(
    "code",
    [
        "import sys; from slicewise.worker.cli import main; sys.exit(main(['model', 'verify']))",
        "import slicewise.export.verify",
        "import slicewise.trainer.evaluation",
    ],
)
def test_nothing_is_written_outside_the_home(code, tmp_path):
    user, home = tmp_path / "user", tmp_path / "h"
    user.mkdir()
    python(code, isolated=user, SLICEWISE_HOME=str(home))
    written = [path.relative_to(user).as_posix() for path in user.rglob("*") if path.is_file()]
    assert not written, "ONNX Runtime's telemetry: ORT_DISABLE_TELEMETRY=1 has to be set before it is imported"


# --- boundaries ------------------------------------------------------------------------------------------------


def is_broad(node: ast.AST) -> bool:
    if isinstance(node, ast.ExceptHandler):
        caught = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
        return any(c is None or (isinstance(c, ast.Name) and c.id in {"Exception", "BaseException"}) for c in caught)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "suppress":
        return any(isinstance(a, ast.Name) and a.id in {"Exception", "BaseException"} for a in node.args)
    return False


def broad_in(path: Path) -> set[tuple[str, str]]:
    found = set()

    def walk(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if is_broad(node):
            found.add((relative(path), function))
        for child in ast.iter_child_nodes(node):
            walk(child, function)

    walk(ast.parse(path.read_text()), "")
    return found


def test_only_the_boundaries_catch_everything():
    found = set().union(*(broad_in(path) for path in sources()))
    assert found - BROAD.keys() == set(), "a broad except: catch what can come, or name the boundary here"
    assert BROAD.keys() - found == set(), "no longer broad: take it off the list"


def test_nothing_is_global():
    for path in sources():
        changed = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Global)]
        assert not changed, f"{relative(path)}:{changed}: a global that changes"


# --- what ships ------------------------------------------------------------------------------------------------


def folders_on_disk() -> dict[str, str]:
    """Package name by folder: every folder that holds a module."""
    return {
        f"slicewise.{relative(folder).replace('/', '.')}": relative(folder)
        for folder in sorted({path.parent for path in sources()})
    }


def test_every_package_is_listed():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(folders_on_disk())


def test_every_package_has_an_init():
    assert not [folder for folder in folders_on_disk().values() if not (ROOT / folder / "__init__.py").is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a clean copy: no stale build/, no egg-info."""
    copy = tmp_path_factory.mktemp("copy")
    for path in tracked():
        if path.relative_to(ROOT).parts[0] in {*PARTS, "pyproject.toml", "README.md", "LICENSE", "NOTICE"}:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [*build, "--wheel-dir", str(out), str(copy)], capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, (
        f"{done.stderr}\nthe setuptools of requirements/dev.txt is needed: make test installs it"
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_all_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    # Whatever lies in a package and is in git is code, or data that the code reads.
    expected = {f"slicewise/{relative(path)}" for path in tracked() if path.relative_to(ROOT).parts[0] in PARTS}
    assert held == expected
    assert {f"slicewise/worker/model/{name}.onnx" for name in ("reference", "reference-paper")} <= set(held)
    assert any(name.startswith("slicewise/worker/sample/study/") for name in held)


def test_the_wheel_carries_the_licences(wheel):
    with zipfile.ZipFile(wheel) as archive:
        licences = {Path(name).name for name in archive.namelist() if "/licenses/" in name}
    assert licences == set(PROJECT["project"]["license-files"])


def test_the_installed_wheel_works(wheel, tmp_path):
    target = tmp_path / "venv"
    venv.create(target, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(target), "platbase": str(target)}))
    install = [sys.executable, "-m", "pip", "--python", str(target / "bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, timeout=120)
    # The dependencies of this environment; its editable slicewise stays out, since .pth files there are not read.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = str(target / "bin" / "slicewise")
    assert run(command, "--version") == f"slicewise {PROJECT['project']['version']}\n"
    where = run(str(target / "bin/python"), "-c", "import slicewise.worker as w; print(w.__file__)").strip()
    assert Path(where).is_relative_to(packages)
    # The schema, the model and the sample study out of the wheel.
    assert "is at schema" in run(command, "db", "upgrade")
    assert "FAIL" not in run(command, "model", "verify")


# --- the repository --------------------------------------------------------------------------------------------


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((path, data.decode("utf-8", "replace")))
    return found


def test_no_file_names_a_place_on_somebody_s_machine():
    place = re.compile(r"(?<![\w.$/])/(work|home/(?!somebody\b)\w+|Users/\w+|root)/[\w.]")
    for path, text in texts():
        found = place.search(text)
        assert not found, f"{relative(path)} names {found.group() if found else ''}…"


def test_no_file_names_a_package_index():
    # Spelled in parts, so that this file is none.
    index = re.compile(
        "--(extra-)?index-" + "url[= ]|pythonhosted" + r"\.org|pypi\." + "org/simple|registry" + r"\.npmjs"
    )
    for path, text in texts():
        found = index.search(text)
        assert not found, f"{relative(path)} holds an index address: {found.group() if found else ''}"


def test_locks_pin_every_requirement_with_hashes():
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        entries = path.read_text().replace("\\\n", " ").splitlines()
        loose = [entry for entry in entries if entry.strip() and not re.match(r"\S+==\S+ .*--hash=sha256:", entry)]
        assert not loose, f"{path.name}: {loose[:3]}"
