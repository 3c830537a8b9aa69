"""What can be said of deploy/ without a container engine: that it names what exists, and holds no secret."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from slicewise.worker.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(exit_on_error=False)
    commands = made.add_subparsers()
    for point in entry_points(group="slicewise.commands"):
        point.load()(commands)
    return made


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: keyword and the rest, continued lines joined."""
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def files() -> list[Path]:
    return [path for path in sorted(DEPLOY.iterdir()) if path.is_file()]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_every_setting_named_exists(path):
    known = {f"SLICEWISE_{name.upper()}" for name in Settings.__dataclass_fields__}
    named = set(re.findall(r"SLICEWISE_[A-Z_]*[A-Z]", path.read_text()))
    assert named <= known, f"{path.name} names settings that do not exist"


def test_there_is_no_python_here():
    assert not list(DEPLOY.rglob("*.py"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_gets_into_the_build(name):
    let_in = {line[1:] for line in (DEPLOY / f"{name}.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words for key, words in instructions(name) if key == "COPY" and "--from=" not in words]
    sources = {source for words in copied for source in words.split()[:-1]}
    assert sources == let_in
    for source in sources:
        assert (ROOT / source).exists(), f"{name} copies {source}, which does not exist"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_the_build_of_the_package_needs_is_copied(name):
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["setuptools"]["package-dir"].values(), "pyproject.toml"}
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    copied = {word for key, words in instructions(name) if key == "COPY" for word in words.split()}
    assert needed <= copied


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nothing_is_installed_without_a_hash(name):
    installs = [words for key, words in instructions(name) if key == "RUN" and "pip install" in words]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert {"--no-deps", "--no-build-isolation"} <= set(installs[1].split())
    lock = next(w.split()[0] for key, w in instructions(name) if key == "COPY" and w.startswith("requirements/"))
    # Without isolation the lock has to bring what builds the package.
    assert re.search(r"^setuptools==", (ROOT / lock).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_does_not_run_as_root(name):
    (user,) = [words for key, words in instructions(name) if key == "USER"]
    uid, _, gid = user.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_both_images_have_one_home_for_one_volume():
    homes = {word for name in DOCKERFILES for word in re.findall(r"SLICEWISE_HOME=(\S+)", (DEPLOY / name).read_text())}
    users = {words for name in DOCKERFILES for key, words in instructions(name) if key == "USER"}
    assert len(homes) == len(users) == 1


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_a_real_command(name, parser):
    found = dict(instructions(name))
    (entry,) = yaml.safe_load(found["ENTRYPOINT"])
    assert entry == "slicewise"
    parser.parse_args(yaml.safe_load(found["CMD"]))
    check = yaml.safe_load(found["HEALTHCHECK"].partition("CMD ")[2])
    assert check[0] == "slicewise"
    parser.parse_args(check[1:])


def ours(compose: dict) -> dict[str, dict]:
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_services_run_real_commands(compose, parser):
    assert set(ours(compose)) == {"migrate", "worker", "worker-gpu"}
    for service in ours(compose).values():
        parser.parse_args(service["command"])


def test_services_are_built_from_dockerfiles_that_exist(compose):
    for service in ours(compose).values():
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_all_of_ours_share_one_home(compose):
    for service in ours(compose).values():
        assert service["volumes"] == [f"home:{service['environment']['SLICEWISE_HOME']}"]
        assert f"SLICEWISE_HOME={service['environment']['SLICEWISE_HOME']} " in " ".join(
            w for key, w in instructions(Path(service["build"]["dockerfile"]).name) if key == "ENV"
        )


def test_every_volume_is_declared(compose):
    used = {volume.partition(":")[0] for s in compose["services"].values() for volume in s.get("volumes", [])}
    assert used == set(compose["volumes"])


def test_a_worker_waits_for_the_migration(compose):
    for name in ("worker", "worker-gpu"):
        waits = compose["services"][name]["depends_on"]
        assert waits["migrate"]["condition"] == "service_completed_successfully"
        assert waits["redis"]["condition"] == "service_healthy"
    assert compose["services"]["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert {"redis", "postgres"} <= {
        name for name, s in compose["services"].items() if "test" in s.get("healthcheck", {})
    }


def test_a_worker_may_finish_its_turn(compose):
    from slicewise.worker.queue import work

    for name in ("worker", "worker-gpu"):
        assert int(compose["services"][name]["stop_grace_period"].removesuffix("s")) > work._TURN_SECONDS


def test_settings_of_the_services_are_accepted(compose):
    for service in ours(compose).values():
        given = {k: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", str(v)) for k, v in service["environment"].items()}
        settings = Settings.from_environment(given)
        assert not settings.embedded
        assert settings.database_url.startswith("postgresql+psycopg://")


def test_the_gpu_worker_asks_for_the_gpu(compose):
    service = compose["services"]["worker-gpu"]
    assert service["profiles"] == ["gpu"]
    assert service["environment"]["SLICEWISE_PROVIDER"] == "cuda"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]


def test_nothing_is_published(compose):
    assert not [name for name, service in compose["services"].items() if "ports" in service]


def test_no_password_has_a_default():
    for path in files():
        for name, rest in re.findall(r"\$\{(\w*PASSWORD\w*)([^}]*)\}", path.read_text()):
            assert rest.startswith(":?"), f"{path.name}: {name} must be given, not made up"
    lines = (DEPLOY / "env.sample").read_text().splitlines()
    passwords = [line for line in lines if re.match(r"\w*PASSWORD", line)]
    assert passwords == ["POSTGRES_PASSWORD=", "REDIS_PASSWORD="]


def test_every_variable_of_the_compose_file_is_in_the_sample():
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    offered = set(re.findall(r"^#?(\w+)=", (DEPLOY / "env.sample").read_text(), re.MULTILINE))
    assert used == offered


def unit(name: str = "slicewise") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / f"{name}.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_runs_up_in_its_state_directory(parser):
    found = unit()
    command, *words = found["ExecStart"][0].split()
    assert Path(command).name == "slicewise"
    parser.parse_args(words)
    assert f"SLICEWISE_HOME=%S/{found['StateDirectory'][0]}" in found["Environment"]


def test_the_watching_unit_runs_watch_beside_the_other_one(parser):
    found, other = unit("slicewise-watch"), unit()
    command, *words = found["ExecStart"][0].split()
    assert command == other["ExecStart"][0].split()[0]
    (folder,) = parser.parse_args(words).folders
    assert found["ReadWritePaths"] == found["RequiresMountsFor"] == [str(folder)]
    for key in ("User", "Group", "StateDirectory", "StateDirectoryMode", "EnvironmentFile", "Environment"):
        assert found[key] == other[key]


def test_the_watching_unit_gives_up_where_a_restart_mends_nothing():
    from slicewise.worker.watch_commands import EXIT_OCCUPIED

    assert unit("slicewise-watch")["RestartPreventExitStatus"] == [str(EXIT_OCCUPIED)]


@pytest.mark.parametrize("name", ["receive", "serve"])
def test_the_listening_units_serve_this_host_until_they_are_told_more(parser, name):
    found, other = unit(f"slicewise-{name}"), unit()
    command, *words = found["ExecStart"][0].split()
    assert command == other["ExecStart"][0].split()[0]
    assert words.pop() == f"${name.upper()}_OPTIONS"
    assert parser.parse_args(words).address == "127.0.0.1"
    for key in ("User", "Group", "StateDirectory", "StateDirectoryMode", "Environment"):
        assert found[key] == other[key]
    assert found["EnvironmentFile"] == [other["EnvironmentFile"][0], f"-/etc/slicewise/{name}.env"]
    (options,) = re.findall(rf"{name.upper()}_OPTIONS=(.+)' >", (DEPLOY / "README.md").read_text())
    parser.parse_args([*words, *options.split()])


def test_the_serving_unit_waits_for_uploads_that_are_under_way():
    from slicewise.worker import processes
    from slicewise.worker.web import server

    assert int(unit("slicewise-serve")["TimeoutStopSec"][0].removesuffix("s")) > processes._STOP_SECONDS
    assert processes._STOP_SECONDS > server.STOP_SECONDS


def test_the_receiving_unit_waits_for_what_is_half_received():
    from slicewise.worker import processes
    from slicewise.worker.intake.receiving import server

    assert int(unit("slicewise-receive")["TimeoutStopSec"][0].removesuffix("s")) > processes._STOP_SECONDS
    assert processes._STOP_SECONDS > server._STOP_SECONDS


def test_the_unit_leaves_the_supervision_to_up():
    from slicewise.worker import service

    found = unit()
    # Only `up` hears SIGTERM, and has the time to stop its worker and its Redis, one after the other.
    assert found["KillMode"] == ["mixed"]
    assert int(found["TimeoutStopSec"][0].removesuffix("s")) > 2 * service._STOP_SECONDS
    assert found["OOMPolicy"] == ["continue"]
    assert found["Restart"] == ["on-failure"]


def test_the_unit_lets_leases_see_their_owners():
    # slicewise.worker.queue.owner reads /proc: a worker that it cannot see is taken for dead.
    assert not {"ProtectProc", "ProcSubset", "PrivateUsers"} & unit().keys()


def test_the_samples_are_accepted_once_they_are_uncommented():
    text = (DEPLOY / "slicewise.env.sample").read_text()
    given = dict(line[1:].partition("=")[::2] for line in text.splitlines() if line.startswith("#SLICEWISE_"))
    assert len(given) >= 7
    Settings.from_environment(given)
