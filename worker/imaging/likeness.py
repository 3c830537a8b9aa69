"""Whether a raster could be a slice of a head at all: the texture of tissue, and where it lies.

Only what no slice of a head shows is refused. Each bound lies beyond the extremes of 9,717 real slices: the public sets, 120
post-contrast slices of another hospital and the DICOM files of the tests. What lies within is for the network to doubt.
"""

from __future__ import annotations

import numpy as np

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging.raster import Featureless

# Grey levels of the raster, of 255: air lies below, tissue above.
_AIR, _TISSUE = 20, 25
# Grey levels that count as one in the histogram.
_BIN = 4
# A pixel that differs by less from the mean of its four neighbours is flat, in grey levels.
_FLAT = 0.5


def check(raster: np.ndarray) -> None:
    """Refuse noise, text, stripes, tiles, discs, ramps and the like.

    Parameters
    ----------
    raster : numpy.ndarray
        ``(150, 150) uint8``, as `slicewise.worker.imaging.raster.normalise` makes it.

    Raises
    ------
    Featureless
        ``no_head``; the message says what it has, or lacks.
    """
    box = _occupied(raster).astype(np.float32)
    _check_levels(box)
    _check_likeness_of_neighbours(box)
    _check_detail(box)
    _check_place(box > _TISSUE)


def _occupied(raster: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((raster > _AIR).any(axis=axis)) for axis in (1, 0))
    if rows.size < 16 or columns.size < 16:
        raise _no_head("hardly anything stands out from the background")
    return raster[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _check_levels(box: np.ndarray) -> None:
    """Tissue has many grey levels. Entropy in bits of 64 levels: at least 3.8; share of the two most frequent: at most .44."""
    counts = np.bincount((box.astype(np.uint8) // _BIN).ravel(), minlength=256 // _BIN)
    shares = counts[counts > 0] / box.size
    if -(shares * np.log2(shares)).sum() < 3.5 or np.sort(counts)[-2:].sum() > 0.55 * box.size:
        raise _no_head("it has too few grey levels for tissue")


def _check_likeness_of_neighbours(box: np.ndarray) -> None:
    """Tissue is like its neighbours. Autocorrelation at least .65 at one pixel, .20 at three, in either direction."""
    centred = box - box.mean()
    variance = float((centred * centred).mean())
    # Smooth noise goes up to the corners; a head does so only where its air is grey, and is then still a head.
    far = 0.3 if _corners(box > _TISSUE) > 0.93 else 0.1
    for lag, least in ((1, 0.5), (3, far)):
        for first, second in ((centred[lag:], centred[:-lag]), (centred[:, lag:], centred[:, :-lag])):
            if float((first * second).mean()) < least * variance:
                raise _no_head("it is noise or a pattern, not tissue")


def _check_detail(box: np.ndarray) -> None:
    """Tissue is nowhere smooth. Mean difference from the neighbours' mean: at least .9 grey levels; flat pixels: at most .38."""
    around = (box[:-2, 1:-1] + box[2:, 1:-1] + box[1:-1, :-2] + box[1:-1, 2:]) * np.float32(0.25)
    detail = np.abs(around - box[1:-1, 1:-1])
    if float(detail.mean()) < 0.7 or float((detail < _FLAT).mean()) > 0.55:
        raise _no_head("it is as smooth as nothing that a scanner sees")


def _check_place(tissue: np.ndarray) -> None:
    """A head is round and full. Share of tissue: at least .50 of all, .65 of the middle, .24 of every line there."""
    margin = tissue.shape[0] // 6
    lines = tissue.mean(axis=1)[margin:-margin]
    if tissue.mean() < 0.42 or tissue[_radius(tissue) < 0.36].mean() < 0.55 or lines.min() < 0.12:
        raise _no_head("several pictures, or no whole one")


def _corners(tissue: np.ndarray) -> float:
    """Share of tissue in the corners."""
    return float(tissue[_radius(tissue) > 1.44].mean())


def _radius(box: np.ndarray) -> np.ndarray:
    """Squared distance of each pixel from the centre: 1 in the middle of the sides, 2 in the corners."""
    rows, columns = box.shape
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return np.asarray(x * x + y * y)


def _no_head(detail: str) -> Featureless:
    return Featureless(RefusalReason.NO_HEAD, detail)
