"""Checking a loaded bundle on the provider that will run it."""

from __future__ import annotations

import numpy as np

from slicewise.worker import sample
from slicewise.worker.errors import Refused
from slicewise.worker.findings import Finding
from slicewise.worker.imaging import load, to_raster
from slicewise.worker.model.session import BATCH, Model

# Across batch sizes only the order of additions may differ.
_SAME = 1e-5


def check(model: Model) -> list[Finding]:
    """Score the sample study and see that the answers are sound.

    Returns
    -------
    list of Finding
        Provider, probabilities that sum to 1, and the same answer at every batch size.
    """
    rasters = sample_rasters()
    together = model.score(np.resize(rasters, (BATCH, *rasters.shape[1:]))).probabilities[: len(rasters)]
    alone = np.concatenate([model.score(raster[None]).probabilities for raster in rasters])
    apart = float(np.abs(together - alone).max())
    total = float(np.abs(together.sum(axis=1) - 1).max())
    return [
        Finding(True, f"{model.description.name} {model.sha256[:12]} runs on {model.provider}"),
        Finding(bool(np.isfinite(together).all()) and total < _SAME, f"probabilities sum to 1 within {total:.1e}"),
        Finding(apart < _SAME, f"alone or in a batch of {BATCH}, answers differ by at most {apart:.1e}"),
    ]


def sample_rasters() -> np.ndarray:
    """``(N, 150, 150) uint8``: every slice of the sample study that can be assessed."""
    rasters = []
    for path in sorted(sample.STUDY.iterdir()):
        try:
            rasters += [to_raster(decoded) for decoded in load(path.read_bytes())]
        except Refused:
            continue
    return np.stack(rasters)
