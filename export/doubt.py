"""When a network's answer is not to be given: what the trainer has fitted and the exporter puts into the bundle."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from slicewise.export.run import in_one_step
from slicewise.worker.errors import Misconfigured


@dataclass(frozen=True)
class Familiar:
    """Which way, among the features, pictures of nothing lie.

    Parameters
    ----------
    direction : numpy.ndarray
        ``(channels,) float32``: from known pictures to pictures of nothing.
    middle
        What the features have along it halfway between the two.
    limit
        A picture that lies farther out, as `distances` gives it, is refused, or has no label where a header says what it is.
    unvouched
        One that lies farther out than this, with no header to say what it is, has no label.
    """

    direction: np.ndarray
    middle: float
    limit: float
    unvouched: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """How far features ``(N, channels)`` lie towards pictures of nothing, ``(N,)``: Fisher's linear discriminant.

        The log odds if both were normal with one covariance: 0 is halfway, known pictures are below.
        """
        return np.asarray(features @ self.direction - self.middle)


@dataclass(frozen=True)
class Doubt:
    """See `slicewise.worker.model.bundle.Description`; `familiar` is None for a network without features."""

    temperature: float
    abstain_below: float
    familiar: Familiar | None = None

    def save(self, path: Path) -> None:
        """Write it in one step."""
        values = {name: value for name, value in asdict(self).items() if name != "familiar"}
        with in_one_step(path) as partial, partial.open("wb") as writing:
            np.savez(writing, **values, **(asdict(self.familiar) if self.familiar else {}))

    @classmethod
    def load(cls, path: Path) -> Doubt | None:
        """What was saved; None where nothing was.

        Raises
        ------
        Misconfigured
            The file is damaged.
        """
        if not path.exists():
            return None
        try:
            with path.open("rb") as reading, np.load(reading) as saved:
                familiar = (
                    Familiar(saved["direction"], *(float(saved[name]) for name in ("middle", "limit", "unvouched")))
                    if "limit" in saved
                    else None
                )
                return cls(float(saved["temperature"]), float(saved["abstain_below"]), familiar)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise Misconfigured(f"{path} is damaged ({error}): 'slicewise train --resume' writes it again") from error
