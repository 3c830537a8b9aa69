"""The life of a bundle, as an operator leads it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from slicewise.db.models import Audit
from slicewise.worker.model import bundle
from slicewise.worker.model.store import SHIPPED, Store
from slicewise.worker.service import Service


@pytest.fixture
def ready(settings, slicewise):
    """A home whose database is there and whose settings name no bundle."""
    slicewise("db", "upgrade")
    return Store(settings.home)


def listed(slicewise):
    return {row["sha256"]: row for row in json.loads(slicewise("model", "list", "--format", "json").stdout)}


def answered_by(slicewise):
    rows = json.loads(slicewise("results", "--all-models", "--format", "json").stdout)
    return sorted((row["model_sha256"], row["source"][-5]) for row in rows)


def test_promoted_and_rolled_back(ready, settings, slicewise, small_model, other, opened):
    small, mine = bundle.sha256(small_model), bundle.sha256(other)
    told = slicewise("model", "promote", small_model, status=1).stdout
    assert "FAIL  no figures of both" in told
    assert told.endswith(f"not promoted: {bundle.sha256(SHIPPED[0])[:12]} serves on\n")
    assert ready.promoted() == []
    assert f"{small[:12]} serves" in slicewise("model", "promote", small_model, "--anyway").stdout
    assert "serves already" in slicewise("model", "promote", small_model, status=78).stderr
    figures = [ready.path(small).with_name(f"{name}.json") for name in ("small", "mine")]
    for path, sha, accuracy in zip(figures, (small, mine), (0.9, 0.91), strict=True):
        path.write_text(json.dumps({"bundle": sha, "fingerprint": "p", "accuracy": accuracy, "pictures": 100}))
    told = slicewise("model", "promote", other, "--figures", figures[0], "--figures", figures[1]).stdout
    assert "ok    91.0% right, 90.0% by the one that serves, on the same 100 pictures" in told
    assert {sha: row["serves"] for sha, row in listed(slicewise).items()} == {
        **{bundle.sha256(path): False for path in SHIPPED},
        small: False,
        mine: True,
    }
    assert mine[:12] in next(line for line in slicewise("model", "list").stdout.splitlines() if "*" in line)
    assert f"{small[:12]} serves" in slicewise("model", "rollback").stdout
    assert json.loads(slicewise("model", "show").stdout)["sha256"] == small
    slicewise("model", "rollback")
    assert "what is shipped serves already" in slicewise("model", "rollback", status=78).stderr
    with opened(settings.database_url) as database, database.reading() as session:
        kept = list(session.execute(select(Audit.action, Audit.subject, Audit.detail).order_by(Audit.id)))
    assert [tuple(row) for row in kept] == [
        ("promoted", small, "though the gate was not passed"),
        ("promoted", mine, None),
        ("rolled_back", mine, None),
        ("rolled_back", small, None),
    ]


def test_where_the_settings_name_the_bundle_nothing_is_promoted(ready, quick, slicewise, other):
    for words in (("promote", other), ("rollback",)):
        assert "SLICEWISE_MODEL says which bundle serves" in slicewise("model", *words, status=78).stderr
    assert ready.promoted() == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"bundle": null, "fingerprint": "p", "accuracy": 1, "pictures": 1}']
)
def test_figures_that_are_none(ready, slicewise, small_model, tmp_path, content):
    (tmp_path / "figures.json").write_text(content)
    told = slicewise("model", "promote", small_model, "--figures", tmp_path / "figures.json", status=78).stderr
    assert "slicewise evaluate --output" in told


def test_a_running_worker_follows_and_keeps_what_it_has_when_it_cannot(
    ready, settings, slicewise, small_model, other, write_dicom, tmp_path, wait_until
):
    small, mine = bundle.sha256(small_model), bundle.sha256(other)
    slicewise("model", "promote", small_model, "--anyway")
    for n in range(3):
        write_dicom(tmp_path / f"{n}.dcm", seed=n)
    with Service(settings):
        slicewise("submit", tmp_path / "0.dcm", "--wait")
        assert answered_by(slicewise) == [(small, "0")]
        slicewise("model", "promote", other, "--anyway")
        slicewise("submit", tmp_path / "1.dcm", "--wait")
        assert answered_by(slicewise) == sorted([(small, "0"), (mine, "1")])
        # What was answered before is not seen by default, until it is asked again.
        assert len(json.loads(slicewise("results", "--format", "json").stdout)) == 1
        assert "1 job set to wait" in slicewise("model", "rescore").stdout
        expected = sorted([(small, "0"), (mine, "0"), (mine, "1")])
        wait_until(lambda: answered_by(slicewise) == expected)
        assert "0 jobs set to wait" in slicewise("model", "rescore").stdout

        ready.promote(SHIPPED[0], bundle.sha256(SHIPPED[0]), "somebody")
        ready.path(bundle.sha256(SHIPPED[0])).write_bytes(b"half a file")
        slicewise("submit", tmp_path / "2.dcm")
        wait_until(lambda: answered_by(slicewise) == sorted([*expected, (mine, "2")]))
    log = (settings.logs / "worker.log").read_text()
    assert f"{mine[:12]} serves on: " in log
    assert "is damaged, export it again" in log
