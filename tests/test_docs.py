"""The docs cannot lie: what can be set, called or refused is documented, and what is documented exists."""

from __future__ import annotations

import argparse
import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from slicewise.db.reasons import RefusalReason
from slicewise.worker import accounting, pipeline, report, sample
from slicewise.worker.cli import EXIT_CONFIGURATION, EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_USAGE
from slicewise.worker.errors import Misconfigured, Refused
from slicewise.worker.model.bundle import DEFAULT
from slicewise.worker.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md"]


def rows(text: str) -> list[list[str]]:
    """Cells of every table row; a pipe inside a cell is written with a backslash."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- settings --------------------------------------------------------------------------------------------------


def documented_settings() -> dict[str, list[str]]:
    found = rows((DOCS / "settings.md").read_text())
    return {row[0].strip("`"): row[1:] for row in found if row[0].startswith(f"`{PREFIX}")}


def test_every_setting_is_documented_and_no_other():
    assert list(documented_settings()) == [f"{PREFIX}{name.upper()}" for name in Settings.__dataclass_fields__]


def test_no_page_names_a_setting_that_does_not_exist():
    known = {f"{PREFIX}{name.upper()}" for name in Settings.__dataclass_fields__}
    for page in PAGES:
        named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", page.read_text()))
        assert named <= known, f"{page.name}: {named - known}"


def test_the_defaults_documented_are_the_defaults(tmp_path):
    given = {"SLICEWISE_HOME": str(tmp_path)}
    made = Settings.from_environment(given)
    for name, (default, *_) in documented_settings().items():
        value = str(getattr(made, name.removeprefix(PREFIX).lower()))
        if name in {"SLICEWISE_HOME", "SLICEWISE_MODEL"}:
            continue
        shown = default.replace("`", "").replace(" + ", "").replace("$SLICEWISE_HOME", str(tmp_path))
        assert shown == value, name
    assert made.serving == DEFAULT
    assert f"`{DEFAULT.relative_to(ROOT)}`" in documented_settings()["SLICEWISE_MODEL"][0]


@pytest.mark.parametrize("name", ["SLICEWISE_THREADS", "SLICEWISE_LEASE_SECONDS", "SLICEWISE_JOB_FILES"])
def test_the_ranges_documented_are_the_ranges(name):
    least, most = map(int, documented_settings()[name][1].split(" to "))
    for inside in (least, most):
        Settings.from_environment({name: str(inside)})
    for outside in (least - 1, most + 1):
        with pytest.raises(Misconfigured):
            Settings.from_environment({name: str(outside)})


# --- HTTP ------------------------------------------------------------------------------------------------------


def test_every_address_is_documented_and_no_other():
    from slicewise.worker.web.application import Health, routes
    from slicewise.worker.web.jobs import Jobs
    from slicewise.worker.web.studies import Studies

    faces = Studies(None), Jobs(None, None, None), Health(None, None)
    served = {
        f"{method} {route.path}"
        for route in routes(*faces)
        for method in route.methods - ({"HEAD"} if "GET" in route.methods else set())
    }
    named = {row[0].strip("`") for row in rows((DOCS / "http.md").read_text())}
    assert served == {name for name in named if re.match("(GET|POST) ", name)}


# --- commands --------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every sub-command, by the words that call it."""
    top = argparse.ArgumentParser()
    registered = top.add_subparsers()
    for point in entry_points(group="slicewise.commands"):
        point.load()(registered)
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(action: argparse.Action, words: tuple[str, ...]) -> None:
        for name, parser in action.choices.items():
            found[" ".join((*words, name))] = parser
            for nested in parser._actions:
                if isinstance(nested, argparse._SubParsersAction):
                    walk(nested, (*words, name))

    walk(registered, ())
    return found


COMMANDS = commands()


def sections() -> dict[str, str]:
    """Text of commands.md by heading; only headings that are commands are in lower case."""
    parts = re.split(r"^###? (.+)$", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)
    return {title: text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title.islower()}


def prose(text: str) -> str:
    """A section without its examples."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_every_command_is_documented_and_no_other():
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_and_no_other(name):
    options = {word for action in COMMANDS[name]._actions for word in action.option_strings if word.startswith("--")}
    written = {cell for row in rows(sections()[name]) for cell in re.findall(r"`(--[a-z-]+)", row[0])}
    assert written == options - {"--help"}
    # What the text around the table says must exist as well; it may speak of other commands' options.
    every = {word for parser in COMMANDS.values() for action in parser._actions for word in action.option_strings}
    assert set(re.findall(r"`(--[a-z-]+)", prose(sections()[name]))) <= every


@pytest.mark.parametrize("name", COMMANDS)
def test_the_choices_of_an_option_are_documented(name):
    for action in COMMANDS[name]._actions:
        if not action.option_strings or not action.choices:
            continue
        written = re.search(rf"`{action.option_strings[-1]} ([\w\\|]+)`", sections()[name])
        assert written, f"{name} {action.option_strings[-1]} has choices"
        assert set(written.group(1).split("\\|")) == set(action.choices)


@pytest.mark.parametrize("name", [name for name, parser in COMMANDS.items() if parser.get_default("run")])
def test_every_command_has_an_example(name):
    calls = re.findall(r"^\$ (?:\w+=\w+ )?slicewise (.+)$", sections()[name], flags=re.MULTILINE)
    assert any(call.startswith(name) for call in calls)


def called() -> list[tuple[str, str]]:
    """Every call of slicewise that a page shows in a console block."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```console$(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            found += [(page.name, call) for call in re.findall(r"(?:^|[/ ])slicewise ([a-z].*)$", block, re.MULTILINE)]
    return found


@pytest.mark.parametrize(("page", "call"), called())
def test_every_call_shown_is_understood(page, call):
    if call.startswith("is up in"):
        return
    words = re.split(r" [#<>]", call)[0].split()
    name = max((n for n in COMMANDS if words[: n.count(" ") + 1] == n.split()), key=len, default=None)
    assert name, f"{page}: no command in 'slicewise {call}'"
    COMMANDS[name].parse_args(words[name.count(" ") + 1 :])


def statuses(text: str) -> set[int]:
    return {int(row[0]) for row in rows(text) if row[0].isdigit()}


def test_the_exit_codes_documented_are_those_of_the_command():
    general = (DOCS / "commands.md").read_text().partition("\n## run\n")[0]
    assert statuses(general) == {0, EXIT_INCOMPLETE, EXIT_USAGE, EXIT_CONFIGURATION, EXIT_INTERRUPTED}
    own = {0, accounting.EXIT_MISSING, accounting.EXIT_DEAD, accounting.EXIT_WAITING}
    assert statuses(sections()["reconcile"]) == own


def test_the_json_shown_has_the_keys_of_a_result():
    (block,) = re.findall(r"^```json$(.*?)^```$", sections()["results"], flags=re.MULTILINE | re.DOTALL)
    (shown,) = json.loads(block)
    assert tuple(shown) == report.RESULT_COLUMNS


def test_the_csv_shown_has_the_columns_of_a_result():
    assert f"\n{','.join(report.RESULT_COLUMNS)}\n" in sections()["results"]


def test_the_refusals_shown_are_what_the_sample_study_gives():
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in sections()["run"].splitlines() if "│" in line]
    files = sorted(sample.STUDY.glob("refuse_*"))
    assert [row[0] for row in shown] == [f"study/{path.name}" for path in files]
    for path, row in zip(files, shown, strict=True):
        prepared = pipeline.prepare(path)
        refusal = prepared.refusal or prepared.frames[0]
        assert isinstance(refusal, Refused)
        assert row[-1] == f"{refusal.reason}: {refusal.detail}"


# --- refusals --------------------------------------------------------------------------------------------------


def test_every_refusal_is_documented_and_no_other():
    found = rows((DOCS / "refusals.md").read_text())
    codes = [row[0].strip("`") for row in found if row[0].startswith("`")]
    assert codes == [reason.value for reason in RefusalReason]
    assert all(len(row) == 3 and all(row) for row in found)


def test_every_refusal_happens():
    text = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    never = [reason.name for reason in RefusalReason if f"RefusalReason.{reason.name}" not in text]
    assert not never, "a reason that nothing gives"


# --- all pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_named_exist(page):
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for name in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()):
        if not name.startswith(("spool/", "logs/", "redis/", "runs/")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_decisions_are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted((DOCS / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for number, path in enumerate(sorted((DOCS / "decisions").glob("*.md")), start=1):
        assert path.read_text().startswith(f"# {number}. ")
