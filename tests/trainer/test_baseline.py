"""The nearest neighbour, where it is known which one that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from slicewise.trainer import baseline
from slicewise.trainer.data import LABELS, Example, Rasters, find, rasters


def of(labels: list[str], pixels: np.ndarray) -> Rasters:
    return Rasters(pixels, [Example(Path("a"), "a", label, "", str(n)) for n, label in enumerate(labels)], [])


def test_a_copy_is_found_and_its_label_counts():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 150, 150)).astype(np.uint8)
    known = of([LABELS[n % 4] for n in range(40)], pixels)
    noisy = np.clip(pixels + random.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)
    assert baseline.nearest(known, replaced(known, noisy)).all()
    wrong = of([LABELS[(n + (n < 10)) % 4] for n in range(40)], noisy)
    assert baseline.nearest(known, wrong).sum() == 30
    figures = baseline.figures(baseline.nearest(known, wrong), wrong)
    assert figures["accuracy"] == 0.75
    assert 0.5 < figures["accuracy_95"][0] < 0.75 < figures["accuracy_95"][1] < 0.95


def replaced(known: Rasters, pixels: np.ndarray) -> Rasters:
    return known._replace(pixels=pixels, examples=[replace(e, group=f"v{e.group}") for e in known.examples])


def test_heads_of_a_class_look_alike(data_set):
    decoded = rasters(find([data_set]))
    first = np.array([e.path.stem == "image(0)" for e in decoded.examples])
    parts = [
        Rasters(decoded.pixels[part], [e for e, m in zip(decoded.examples, part, strict=True) if m], [])
        for part in (~first, first)
    ]
    assert baseline.nearest(*parts).mean() > 0.7
