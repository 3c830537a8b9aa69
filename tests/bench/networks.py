"""Slices per second of bundles and of their 8-bit variants, one thread each, against the reference network's.

``make bench-networks`` runs it. All are measured in turn, several rounds, in one process; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from slicewise.export.backend import load_onnx
from slicewise.worker.imaging import to_raster
from slicewise.worker.imaging.scan import Slice
from slicewise.worker.model import session
from slicewise.worker.model.store import SHIPPED
from tests.conftest import brain

_SLICES = 64


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("bundles", nargs="*", type=Path, help="further .onnx files")
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    load_onnx()
    rasters = np.stack([to_raster(Slice(brain(seed), 1)) for seed in range(_SLICES)])
    with tempfile.TemporaryDirectory(prefix="sw") as scratch:
        models = dict(contenders([*SHIPPED, *chosen.bundles], rasters, Path(scratch)))
        report(measure(models, rasters, chosen.rounds))


def contenders(paths: Sequence[Path], rasters: np.ndarray, scratch: Path) -> Iterator[tuple[str, session.Model]]:
    """Each architecture once, by a name, and an 8-bit variant of it."""
    from slicewise.export import quantise

    # What is measured here is time: painted slices need not keep their label.
    quantise.LEAST_AGREEMENT = 0
    known = set()
    for path in paths:
        loaded = session.load(path, threads=1)
        name = loaded.description.name
        if not loaded.description.variant and name not in known:
            known.add(name)
            yield f"{name} float32", loaded
            small = scratch / f"{loaded.sha256}.onnx"
            quantise.quantise(path, small, rasters)
            yield f"{name} int8", session.load(small, threads=1)


def measure(models: dict[str, session.Model], rasters: np.ndarray, rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.score(rasters)
    for _ in range(rounds):
        for name, model in models.items():
            started = time.perf_counter()
            model.score(rasters)
            rates[name].append(len(rasters) / (time.perf_counter() - started))
    return rates


def report(rates: dict[str, list[float]]) -> None:
    base = rates["reference float32"]
    print(
        f"\n{_SLICES} slices, {len(base)} rounds, one thread; beside each, how often faster than the reference in the same round"
    )
    print(f"{'':24}{'slices/s':>10}{'median':>9}{'least':>8}{'most':>8}")
    for name, values in rates.items():
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        print(
            f"{name:24}{statistics.median(values):10.1f}{statistics.median(ratios):9.2f}{min(ratios):8.2f}{max(ratios):8.2f}"
        )


if __name__ == "__main__":
    main()
