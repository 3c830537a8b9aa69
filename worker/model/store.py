"""Which bundle serves: a home's own list of what was promoted, and the files. Quick to import: settings ask it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from slicewise.worker.durable import sync_folder
from slicewise.worker.errors import Misconfigured

RESIDUAL, REFERENCE, PAPER = (
    Path(__file__).with_name(f"{name}.onnx") for name in ("residual", "reference", "reference-paper")
)
SHIPPED = (RESIDUAL, REFERENCE, PAPER)
"""The bundles that come with the package; the first serves where none was promoted."""


@dataclass(frozen=True)
class Promotion:
    """That a bundle was put in charge; `at` is UTC, in ISO 8601."""

    sha256: str
    at: str
    by: str


class Store:
    """The bundles of a home, each kept under the hash of its content.

    Promotions are a stack: a rollback takes the last one off. Whoever reads sees the list before or after a change, never
    half of it.

    Parameters
    ----------
    home
        As in the settings; nothing is made there before the first promotion.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "models"
        self._list = self._folder / "promoted.json"

    def serving(self) -> Path:
        """The bundle in charge.

        Raises
        ------
        Misconfigured
            The list is damaged.
        """
        promoted = self.promoted()
        return self.path(promoted[-1].sha256) if promoted else SHIPPED[0]

    def promoted(self) -> list[Promotion]:
        """Every promotion that has not been rolled back, oldest first.

        Raises
        ------
        Misconfigured
            The list is damaged.
        """
        try:
            return [Promotion(**one) for one in json.loads(self._list.read_text(encoding="utf-8"))]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError, TypeError) as error:
            raise Misconfigured(
                f"{self._list} cannot be read ({error}): put it back from the backup, or remove it to serve what is shipped"
            ) from None

    def path(self, sha256: str) -> Path:
        """Where a bundle lies that was promoted once."""
        return self._folder / f"{sha256}.onnx"

    def kept(self) -> list[Path]:
        """Every bundle that was promoted once."""
        return sorted(self._folder.glob("*.onnx"))

    def promote(self, bundle: Path, sha256: str, by: str) -> Promotion:
        """Put a bundle in charge; a copy of it is kept.

        Parameters
        ----------
        sha256
            Of the bundle as it was looked at.

        Raises
        ------
        Misconfigured
            It serves already, cannot be copied, or is not what was looked at.
        """
        with self._changing() as promoted:
            if promoted and promoted[-1].sha256 == sha256:
                raise Misconfigured(f"{sha256[:12]} serves already")
            content = bundle.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise Misconfigured(f"{bundle} has changed since it was looked at: nothing was promoted")
            if not self.path(sha256).exists():
                _write(self.path(sha256), content)
            promoted.append(Promotion(sha256, datetime.now(UTC).isoformat(timespec="seconds"), by))
            return promoted[-1]

    def rollback(self) -> Promotion:
        """Take the last promotion back; that one is returned.

        Raises
        ------
        Misconfigured
            There is none: what is shipped serves.
        """
        with self._changing() as promoted:
            if not promoted:
                raise Misconfigured("nothing was promoted: what is shipped serves already")
            return promoted.pop()

    @contextmanager
    def _changing(self) -> Iterator[list[Promotion]]:
        """The list, for one process at a time; it is written when the context ends well."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                promoted = self.promoted()
                yield promoted
                _write(self._list, json.dumps([asdict(one) for one in promoted], indent=1).encode())
        except OSError as error:
            raise Misconfigured(f"{self._folder} cannot be changed ({error.strerror}): nothing was promoted") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, durably."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as writing:
        writing.write(content)
        writing.flush()
        os.fsync(writing.fileno())
    partial.replace(path)
    sync_folder(path.parent)
