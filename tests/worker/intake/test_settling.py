"""When a file counts as complete. No clock, no file system: only what was seen, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.worker.intake.settling import Look, Settling

LOOK = Look(mode=0o100644, links=1, size_bytes=10, mtime_ns=1, inode=5)


@pytest.fixture
def settling():
    return Settling(5)


def names(settling, at):
    return [name for name, _ in settling.ripe(at)]


def test_a_file_is_ripe_when_it_has_stayed_as_it_is(settling):
    settling.see("a", LOOK, 100)
    assert names(settling, 104.9) == []
    settling.see("a", LOOK, 104)
    assert settling.ripe(105) == [("a", LOOK)]


@pytest.mark.parametrize(
    "change", [{"size_bytes": 11}, {"mtime_ns": 2}, {"inode": 6}, {"links": 2}, {"mode": 0o100600}]
)
def test_any_change_begins_its_time_anew(settling, change):
    settling.see("a", LOOK, 100)
    settling.see("a", LOOK._replace(**change), 104)
    assert names(settling, 108) == []
    assert settling.ripe(109) == [("a", LOOK._replace(**change))]


def test_a_change_back_is_a_change(settling):
    settling.see("a", LOOK, 100)
    settling.see("a", LOOK._replace(size_bytes=11), 102)
    settling.see("a", LOOK, 103)
    assert names(settling, 107) == []
    assert names(settling, 108) == ["a"]


def test_an_event_begins_its_time_anew_although_it_looks_the_same(settling):
    settling.see("a", LOOK, 100)
    settling.stir("a", 104)
    assert names(settling, 108) == []
    assert names(settling, 109) == ["a"]
    assert settling.unchanged("a", 109) == 9


def test_an_event_of_an_unknown_file_is_nothing(settling):
    settling.stir("a", 100)
    assert not settling
    assert settling.unchanged("a", 200) == 0


def test_what_is_gone_is_forgotten(settling):
    for name in "abc":
        settling.see(name, LOOK, 100)
    settling.drop("a")
    settling.drop("never there")
    settling.keep({"b", "d"})
    assert names(settling, 200) == ["b"]
    assert "b" in settling
    assert len(settling) == 1


def test_what_comes_back_waits_for_its_whole_time(settling):
    settling.see("a", LOOK, 100)
    settling.drop("a")
    settling.see("a", LOOK, 104)
    assert names(settling, 106) == []


def test_ripe_files_come_in_the_order_of_names_and_wait_on(settling):
    for name in ("b/2", "a", "b/1"):
        settling.see(name, LOOK, 100)
    assert names(settling, 105) == names(settling, 106) == ["a", "b/1", "b/2"]


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["see", "stir", "change", "drop"])), max_size=40))
def test_no_file_is_ripe_before_its_quiet_time_whatever_happens(steps):
    settling, at, look, last = Settling(5), 0.0, LOOK, None
    for wait, step in steps:
        at += wait
        if "a" in [name for name, _ in settling.ripe(at)]:
            assert last is not None
            assert at - last >= 5
        if step == "change":
            look = look._replace(size_bytes=look.size_bytes + 1)
        if step in {"see", "change"}:
            if step == "change" or last is None:
                last = at
            settling.see("a", look, at)
        elif step == "stir":
            last = at if last is not None else None
            settling.stir("a", at)
        else:
            settling.drop("a")
            last = None
