"""The plan, with a PACS that does what each test wants; the real ones are in test_pacs.py."""

from __future__ import annotations

import threading

import pytest

from slicewise.db import writes
from slicewise.db.records import Content
from slicewise.worker.intake.pulling.pace import Pace
from slicewise.worker.intake.pulling.peer import Away, Declines, Instance, Series
from slicewise.worker.intake.pulling.pull import Pull
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.receiving.committer import Sending

ONE, TWO = Wanted(study="1"), Wanted(study="2")


class Pacs:
    """Has what it is given; what it sends is written down as a receiver would."""

    name = "PACS@host"

    def __init__(self, database, **series) -> None:
        self.database, self.sending = database, Sending(self.name)
        # Two series that every study has.
        self.has = {"1.1": ["a", "b", "c"], "1.2": ["d"]} | series
        self.fetched, self.refuses, self.troubles = [], {}, []

    def trouble(self):
        if self.troubles and (trouble := self.troubles.pop(0)):
            raise trouble

    def series(self, wanted):
        self.trouble()
        yield from (Series(uid.partition(".")[0], uid, "MR") for uid in self.has if uid.startswith(wanted.study))

    def instances(self, series):
        self.trouble()
        return [Instance(uid, "MR" if uid != "d" else "SC") for uid in self.has[series.uid]]

    def fetch(self, series, instances, came):
        for one in instances:
            self.trouble()
            if one.uid in self.refuses:
                continue
            self.fetched.append(one.uid)
            content = Content(one.uid * 64, 1, one.uid, sop_instance_uid=one.uid)
            with self.database.writing() as session:
                writes.submit(session, [content], way="pull", submission="s")
            came()
        return {one.uid: self.refuses[one.uid] for one in instances if one.uid in self.refuses}

    def close(self):
        pass


@pytest.fixture
def pacs(database):
    return Pacs(database)


@pytest.fixture
def pull(pacs, database):
    """Pull from it; `told` is what the progress said last."""

    def run(*wanted, stop=None, clock=None):
        run.told = None

        def tell(*counts):
            run.told = counts

        pace = Pace(stop=stop)
        made = Pull(pacs, database, pace, progress=tell, pauses=(0.0, 0.0), clock=clock or iter(range(10**9)).__next__)
        return list(made.run(wanted or (ONE,)))

    return run


def figures(pulled):
    return {one.series_instance_uid: (one.at_pacs, one.before, one.came, one.missing, one.reason) for one in pulled}


def test_everything_comes_once_and_only_once(pacs, pull):
    assert figures(pull()) == {"1.1": (3, 0, 3, 0, None), "1.2": (1, 0, 1, 0, None)}
    assert pull.told == (4, 4)
    assert figures(pull(ONE, ONE)) == {"1.1": (3, 3, 0, 0, None), "1.2": (1, 1, 0, 0, None)}
    assert pacs.fetched == ["a", "b", "c", "d"]


def test_only_what_is_missing_is_fetched(pacs, pull):
    pacs.refuses = {"b": "not now"}
    assert figures(pull())["1.1"] == (3, 0, 2, 1, "not now")
    pacs.refuses = {}
    assert figures(pull())["1.1"] == (3, 2, 1, 0, None)
    assert pacs.fetched == ["a", "c", "d", "b"]


def test_a_pacs_that_is_away_for_a_moment_is_asked_again(pacs, pull):
    pacs.troubles = [Away("x"), None, Away("x"), None, None, Away("x"), Away("x")]
    assert figures(pull())["1.1"] == (3, 0, 3, 0, None)
    assert sorted(pacs.fetched) == ["a", "b", "c", "d"]


def test_a_pacs_that_stays_away_is_not_asked_for_ever(pacs, pull):
    pacs.has["2.1"] = ["e"]
    pacs.troubles = [None, None, None, *(Away("gone") for _ in range(99))]
    told = figures(pull(ONE, TWO))
    assert told["1.1"] == (3, 0, 1, 2, "the PACS is away: gone")
    assert told["1.2"] == (0, 0, 0, 0, "the PACS is away: gone")
    assert told["2"] == (0, 0, 0, 0, "the PACS is away: gone")
    assert len(pacs.troubles) == 99 - 3
    pacs.troubles = []
    assert figures(pull(ONE, TWO))["1.1"] == (3, 1, 2, 0, None)


def test_what_the_pacs_refuses_does_not_hold_up_the_rest(pacs, pull):
    pacs.has["2.1"] = ["e"]
    pacs.troubles = [Declines("not yours")]
    assert figures(pull(ONE, TWO)) == {"1": (0, 0, 0, 0, "not yours"), "2.1": (1, 0, 1, 0, None)}


def test_what_the_pacs_does_not_have_is_told(pull):
    assert figures(pull(Wanted(accession="77", study="9"))) == {"9": (0, 0, 0, 0, "the PACS has nothing of it")}


def test_what_was_sent_and_did_not_come_is_missing(pacs, pull, database):
    pacs.fetch = lambda *_: {}
    told = figures(pull())
    assert told["1.1"] == (3, 0, 0, 3, "the PACS says that it was sent, and it did not come")


def test_stopping_leaves_the_rest_for_the_next_time(pacs, pull):
    stop = threading.Event()
    fetch = pacs.fetch

    def and_stop(*words):
        try:
            return fetch(*words)
        finally:
            stop.set()

    pacs.fetch = and_stop
    told = figures(pull(ONE, TWO, stop=stop))
    assert told == {
        "1.1": (3, 0, 3, 0, None),
        "1.2": (0, 0, 0, 0, "stopped before"),
        "2": (0, 0, 0, 0, "stopped before"),
    }
    assert figures(pull(ONE))["1.2"] == (1, 0, 1, 0, None)


def test_a_batch_has_one_sop_class(pacs, pull):
    pacs.has = {"1.1": ["a", "d", "b"]}
    asked = []
    fetch = pacs.fetch
    pacs.fetch = lambda series, instances, came: (
        asked.append([one.uid for one in instances]) or fetch(series, instances, came)
    )
    pull()
    assert asked == [["a", "b"], ["d"]]
