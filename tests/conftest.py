"""What all tests share: a home of their own, and the real Redis and PostgreSQL."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """No test ever touches the user's home or inherits a setting."""
    for name in [n for n in os.environ if n.startswith("SLICEWISE_")]:
        monkeypatch.delenv(name)
    # Short: a unix socket's path has at most 107 characters.
    monkeypatch.setenv("SLICEWISE_HOME", str(tmp_path_factory.mktemp("h")))
