"""A place for what Keras wants to keep."""

from __future__ import annotations

import os
import tempfile

_KEPT = tempfile.TemporaryDirectory(prefix="sw")
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=_KEPT.name)
