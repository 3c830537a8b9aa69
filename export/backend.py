"""Loading TensorFlow and matplotlib: quietly, inside slicewise's own home, with a remedy where one is missing."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from slicewise.worker.errors import Misconfigured


def load_tensorflow(home: Path) -> None:
    """Import everything that training and exporting need, for the first time in this process.

    Parameters
    ----------
    home
        ``SLICEWISE_HOME``: Keras and matplotlib keep their settings and caches there, not in the user's home.

    Raises
    ------
    Misconfigured
        One of them is not installed.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["KERAS_HOME"] = str(home / "keras")
    with _remedy(), _quiet():
        import_module("tensorflow")
        import_module("tf2onnx.convert")
    load_matplotlib(home)


def load_onnx() -> None:
    """Import onnx.

    Raises
    ------
    Misconfigured
        It is not installed.
    """
    with _remedy():
        import_module("onnx")


def load_matplotlib(home: Path) -> None:
    """Import matplotlib, with its cache in `home`.

    Raises
    ------
    Misconfigured
        It is not installed.
    """
    os.environ["MPLCONFIGDIR"] = str(home / "matplotlib")
    with _remedy():
        import_module("matplotlib")


@contextmanager
def _remedy() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = "'make dev' in a checkout, else pip install 'slicewise[train]'"
        raise Misconfigured(f"{error.name} is not installed: {remedy}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what TensorFlow's C++ writes to standard error while it starts; shown only if that fails.

    It writes to the file descriptor before any log level of its own is read.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
