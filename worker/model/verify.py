"""Checking a loaded bundle on the provider that will run it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from slicewise.worker import sample
from slicewise.worker.errors import Refused
from slicewise.worker.findings import Finding
from slicewise.worker.imaging import load, to_raster
from slicewise.worker.model.session import BATCH, Model, Provider

# Across batch sizes only the order of additions may differ.
_SAME = 1e-5

_GOLDEN = {Provider.CPU: 1e-3, Provider.CUDA: 0.01}
_GOLDEN_VARIANT = 0.03
"""So far may answers be from those that the bundle was made with: processors round differently, CUDA multiplies with 10 bits
(TensorFloat-32), and before 8 bits are rounded a last bit may decide."""


def check(model: Model) -> list[Finding]:
    """Score the sample study and see that the answers are sound.

    Returns
    -------
    list of Finding
        Provider, probabilities that sum to 1, the same answer at every batch size, and those that it was made with.
    """
    rasters = sample_rasters()
    written = model.description.golden
    named = " ".join(filter(None, (model.description.name, model.description.variant)))
    together = model.score(np.resize(rasters, (BATCH, *rasters.shape[1:]))).probabilities[: len(rasters)]
    alone = np.concatenate([model.score(raster[None]).probabilities for raster in rasters])
    apart = float(np.abs(together - alone).max())
    total = float(np.abs(together.sum(axis=1) - 1).max())
    findings = [
        Finding(True, f"{named} {model.sha256[:12]} runs on {model.provider}"),
        Finding(bool(np.isfinite(together).all()) and total < _SAME, f"probabilities sum to 1 within {total:.1e}"),
        Finding(apart < _SAME, f"alone or in a batch of {BATCH}, answers differ by at most {apart:.1e}"),
    ]
    if written and written["slices"] == fingerprint(rasters):
        limit = _GOLDEN_VARIANT if model.description.variant else _GOLDEN[model.provider]
        off = float(np.abs(together - np.array(written["probabilities"], np.float32)).max())
        findings.append(
            Finding(
                off < limit,
                f"from the answers that it was made with, its own differ by at most {off:.1e} ({limit:g} is allowed)",
            )
        )
    return findings


def golden(model: Model) -> dict[str, Any]:
    """A bundle's answers to the sample study, for its description."""
    rasters = sample_rasters()
    answers = model.score(rasters).probabilities
    return {"slices": fingerprint(rasters), "probabilities": [[round(float(p), 6) for p in row] for row in answers]}


def fingerprint(rasters: np.ndarray) -> str:
    """Hex SHA-256 of ``(N, 150, 150) uint8`` slices."""
    return hashlib.sha256(np.ascontiguousarray(rasters).tobytes()).hexdigest()


def sample_rasters() -> np.ndarray:
    """``(N, 150, 150) uint8``: every slice of the sample study that can be assessed."""
    rasters = []
    for path in sorted(sample.STUDY.iterdir()):
        try:
            rasters += [to_raster(decoded) for decoded in load(path.read_bytes())]
        except Refused:
            continue
    return np.stack(rasters)
