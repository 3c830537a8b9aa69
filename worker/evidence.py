"""Where in a slice the answer lies: what the network's last map says, as an array and as a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from slicewise.worker.imaging import SIZE, colour

_ENLARGED = 3

# Of the colour over the hottest place: the slice is seen through it.
_OPACITY = 0.6


def heat(evidence: np.ndarray, label: int) -> np.ndarray:
    """How much each place of a slice speaks for a label (class activation mapping, Zhou et al. 2016).

    Parameters
    ----------
    evidence : numpy.ndarray
        ``(h, w, labels) float32``, of one slice, from `slicewise.worker.model.session.Model.evidence`.
    label
        Index of the label.

    Returns
    -------
    numpy.ndarray
        ``(150, 150) float32`` in [0, 1]: 1 where the most is said for it, 0 where nothing is, or something against it.

    Notes
    -----
    A softmax does not care for what is said for all labels alike: a place counts by what it says beyond their mean.
    """
    beyond = np.maximum(evidence[..., label] - evidence.mean(axis=-1), 0)
    down, across = (_between(places) for places in beyond.shape)
    speaks = np.asarray(down @ beyond @ across.T, np.float32)
    most = float(speaks.max())
    return np.asarray(speaks / np.float32(most)) if most > 0 else speaks


def _between(places: int) -> np.ndarray:
    """``(150, places)``: how much each pixel has of each place, by the distance from their centres.

    What a place sees lies evenly around its centre, and the centres do not lie evenly: a layer of step 2 that pads (SAME) puts
    the first on pixel 1 of an even side and on pixel 0 of an odd one.
    """
    sides = [SIZE]
    while sides[-1] > places:
        sides.append(-(-sides[-1] // 2))
    centres = np.arange(places)
    for side in reversed(sides[:-1]):
        centres = 2 * centres + (side % 2 == 0)
    return np.stack([np.interp(np.arange(SIZE), centres, place) for place in np.eye(places)], axis=1)


def overlay(raster: np.ndarray, hot: np.ndarray) -> bytes:
    """A slice with its heat over it, from nothing by red to yellow.

    Parameters
    ----------
    raster : numpy.ndarray
        ``(150, 150) uint8``, what the network saw.
    hot : numpy.ndarray
        ``(150, 150) float32`` in [0, 1].

    Returns
    -------
    bytes
        A PNG of 450x450 pixels, RGB.
    """
    warm = np.stack([np.full_like(hot, 255), 255 * hot, np.zeros_like(hot)], axis=-1)
    share = _OPACITY * hot[..., None]
    mixed = np.rint(colour(raster) * (1 - share) + warm * share).astype(np.uint8)
    written = io.BytesIO()
    side = SIZE * _ENLARGED
    Image.fromarray(mixed).resize((side, side), Image.Resampling.BICUBIC).save(written, "PNG")
    return written.getvalue()
