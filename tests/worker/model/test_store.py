"""Which bundle serves, whoever changes it, and whatever becomes of the list."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.model.store import SHIPPED, Store
from slicewise.worker.settings import Settings

A, B = "a" * 64, "b" * 64


@pytest.fixture
def files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_promotions_are_a_stack(files):
    store = Store(files / "home")
    assert store.serving() == SHIPPED[0]
    assert not (files / "home").exists()
    store.promote(files / "a", A, "me")
    store.promote(files / "b", B, "you")
    assert store.serving().read_bytes() == b"b"
    store.promote(files / "a", A, "me")
    assert [(one.sha256, one.by) for one in store.promoted()] == [(A, "me"), (B, "you"), (A, "me")]
    # The copy serves, whatever becomes of the file that it was made of.
    (files / "a").unlink()
    assert Store(files / "home").serving().read_bytes() == b"a"
    assert [store.rollback().sha256 for _ in range(3)] == [A, B, A]
    assert store.serving() == SHIPPED[0]
    with pytest.raises(Misconfigured, match="nothing was promoted"):
        store.rollback()
    assert [path.name[0] for path in store.kept()] == ["a", "b"]


def test_the_settings_follow_unless_they_name_one(files):
    home = files / "home"
    given = {"SLICEWISE_HOME": str(home)}
    assert Settings.from_environment(given).serving == SHIPPED[0]
    Store(home).promote(files / "a", A, "me")
    assert Settings.from_environment(given).serving == Store(home).path(A)
    assert Settings.from_environment(given | {"SLICEWISE_MODEL": "/x.onnx"}).serving.name == "x.onnx"


def test_the_one_that_serves_is_not_promoted_again(files):
    store = Store(files / "home")
    store.promote(files / "a", A, "me")
    with pytest.raises(Misconfigured, match="serves already"):
        store.promote(files / "a", A, "me")
    assert len(store.promoted()) == 1


@pytest.mark.parametrize("content", ["", "[", "{}", "[1]", '[{"sha256": "a"}]', "7"])
def test_a_damaged_list_is_no_reason_to_serve_another(files, content):
    store = Store(files / "home")
    store.promote(files / "a", A, "me")
    (files / "home" / "models" / "promoted.json").write_text(content)
    if content == "{}":
        # An empty list, whatever its form.
        assert store.serving() == SHIPPED[0]
        return
    for change in (store.serving, store.rollback, lambda: store.promote(files / "b", B, "me")):
        with pytest.raises(Misconfigured, match="put it back from the backup"):
            change()


def test_a_home_that_cannot_be_written(files):
    (files / "home").mkdir()
    (files / "home" / "models").write_text("in the way")
    with pytest.raises(Misconfigured, match="nothing was promoted"):
        Store(files / "home").promote(files / "a", A, "me")
    with pytest.raises(Misconfigured, match="nothing was promoted"):
        Store(files / "another").promote(files / "missing", A, "me")
    assert Store(files / "another").serving() == SHIPPED[0]


PROMOTER = """
import sys
from pathlib import Path
from slicewise.worker.model.store import Store
for n in range(20):
    Store(Path(sys.argv[1])).promote(Path(sys.argv[2]), f"{sys.argv[3]}{n:063}", "me")
"""


def test_two_that_promote_at_the_same_time_lose_nothing(files):
    words = [[sys.executable, "-c", PROMOTER, str(files / "home"), str(files / "a"), who] for who in "ab"]
    running = [subprocess.Popen(one) for one in words]
    assert [one.wait(60) for one in running] == [0, 0]
    promoted = [one.sha256 for one in Store(files / "home").promoted()]
    assert len(promoted) == 40
    for who in "ab":
        assert [sha for sha in promoted if sha[0] == who] == [f"{who}{n:063}" for n in range(20)]
    assert not list((files / "home" / "models").glob("*.partial"))
    json.loads((files / "home" / "models" / "promoted.json").read_text())
