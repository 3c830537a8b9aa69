"""Which bundle serves, whoever changes it, and whatever becomes of the list."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.model.store import SHIPPED, Store
from slicewise.worker.settings import Settings

A, B = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b"))


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
    assert {path.stem for path in store.kept()} == {A, B}


def test_the_settings_follow_unless_they_name_one(files):
    home = files / "home"
    given = {"SLICEWISE_HOME": str(home)}
    assert Settings.from_environment(given).serving == SHIPPED[0]
    Store(home).promote(files / "a", A, "me")
    assert Settings.from_environment(given).serving == Store(home).path(A)
    assert Settings.from_environment(given | {"SLICEWISE_MODEL": "/x.onnx"}).serving.name == "x.onnx"


def test_what_has_changed_since_it_was_looked_at_is_not_promoted(files):
    store = Store(files / "home")
    with pytest.raises(Misconfigured, match="has changed since it was looked at"):
        store.promote(files / "b", A, "me")
    assert (store.promoted(), store.kept()) == ([], [])


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
import hashlib, sys
from pathlib import Path
from slicewise.worker.model.store import Store
for n in range(20):
    mine = Path(sys.argv[2], f"{sys.argv[3]}{n}")
    mine.write_bytes(mine.name.encode())
    Store(Path(sys.argv[1])).promote(mine, hashlib.sha256(mine.name.encode()).hexdigest(), "me")
"""


def test_two_that_promote_at_the_same_time_lose_nothing(files):
    words = [[sys.executable, "-c", PROMOTER, str(files / "home"), str(files), who] for who in "ab"]
    running = [subprocess.Popen(one) for one in words]
    assert [one.wait(60) for one in running] == [0, 0]
    promoted = [one.sha256 for one in Store(files / "home").promoted()]
    assert len(promoted) == 40
    for who in "ab":
        theirs = [hashlib.sha256(f"{who}{n}".encode()).hexdigest() for n in range(20)]
        assert [sha for sha in promoted if sha in theirs] == theirs
    assert not list((files / "home" / "models").glob("*.partial"))
    json.loads((files / "home" / "models" / "promoted.json").read_text())
