"""Pictures of nothing: what imaging would let through, and nothing of a head in its place."""

from __future__ import annotations

import numpy as np

from slicewise.trainer import strangers
from slicewise.worker.imaging import to_raster
from slicewise.worker.imaging.scan import Slice
from tests.conftest import brain


def heads() -> np.ndarray:
    return np.stack([to_raster(Slice(brain(seed), 1)) for seed in range(6)])


def test_they_pass_for_heads_with_imaging_and_are_none():
    drawn = strangers.draw(48, heads(), seed=0)
    assert (drawn.shape, drawn.dtype) == ((48, 150, 150), np.uint8)
    assert len({picture.tobytes() for picture in drawn}) == 48
    for picture in drawn:
        assert np.ptp(picture) > 40
    likeness = np.corrcoef(heads().reshape(6, -1).astype(float), drawn.reshape(48, -1))
    assert likeness[:6, 6:].max() < 0.9


def test_a_seed_says_which():
    first, again, other = (strangers.draw(8, heads(), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(strangers.draw(0, heads(), seed=0)) == 0
