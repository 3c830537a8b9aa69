"""A process goes on with the bundle in charge, and with what it has where that cannot be loaded."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.model import bundle, session
from slicewise.worker.model.following import Following
from slicewise.worker.model.store import SHIPPED, Store


@pytest.fixture
def live(settings):
    return dataclasses.replace(settings, model=None)


def test_follows_and_serves_on(live, caplog):
    loaded = []

    def load(path):
        loaded.append(path)
        return session.load(path)

    store = Store(live.home)
    default, other = (bundle.sha256(path) for path in SHIPPED[:2])
    with caplog.at_level(logging.INFO):
        following = Following(live, load)
        assert following.now().sha256 == following.now().sha256 == default
        store.promote(SHIPPED[1], other, "somebody")
        assert following.now().sha256 == following.now().sha256 == other
        assert len(loaded) == 2
        assert f"{other[:12]} serves now" in caplog.text

        store.promote(SHIPPED[0], default, "somebody")
        store.path(default).write_bytes(b"half a file")
        assert following.now().sha256 == following.now().sha256 == other
    assert len(loaded) == 3
    assert caplog.text.count(f"{other[:12]} serves on: ") == 1


def test_begins_with_what_can_be_loaded(settings, tmp_path):
    with pytest.raises(Misconfigured, match="no model at"):
        Following(dataclasses.replace(settings, model=tmp_path / "missing.onnx"), session.load)
