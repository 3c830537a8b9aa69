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
    """Where the features of known pictures lie.

    Parameters
    ----------
    whitening : numpy.ndarray
        ``(channels, channels) float32``: features times this have unit covariance within a class.
    centres : numpy.ndarray
        ``(labels, channels) float32``: the mean of each class, whitened.
    limit
        The distance to the nearest centre, as `distances` gives it, beyond which a picture is unlike all of them.
    """

    whitening: np.ndarray
    centres: np.ndarray
    limit: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Mahalanobis distance of features ``(N, channels)`` to the nearest class (Lee et al. 2018), ``(N,)``.

        It is divided by the root of the number of channels: a picture of a class lies about 1 from its centre.
        """
        whitened = features @ self.whitening
        return np.asarray(np.sqrt(((whitened[:, None] - self.centres) ** 2).mean(axis=-1).min(axis=1)))


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
                    Familiar(saved["whitening"], saved["centres"], float(saved["limit"])) if "limit" in saved else None
                )
                return cls(float(saved["temperature"]), float(saved["abstain_below"]), familiar)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise Misconfigured(f"{path} is damaged ({error}): 'slicewise train --resume' writes it again") from error
