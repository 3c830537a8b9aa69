"""A grey slice of any size and any intensity scale to the network's 150x150 raster.

The one geometry and the one intensity normalisation, for serving and for training alike:
crop to the head, pad to a square, scale by the tissue's own brightness, resize. Image size, aspect,
padding and overall brightness all leak the class in the public data sets, so none of them survives.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from slicewise.db.reasons import RefusalReason

SIZE = 150
"""Side of the network's input, in pixels."""

PREPROCESS_VERSION = "tissue-1"
"""Names this code path. Golden slices pin its bytes; any change of a byte needs a new name."""

# The head keeps this share of its longer side as a margin, so that the scalp never touches the edge.
_MARGIN = 0.03
# The median of the tissue in the middle of the head lands here, of 255: the middle of the public sets' own.
_TISSUE_LEVEL = 80.0
# A head fills this share of the picture at least, either way, and is no longer than this many times its width.
# Of the 9,703 pictures of the public sets the smallest fills 0.34, the longest is 2.1 times as long.
_LEAST_SHARE = 0.2
_LONGEST = 3.0
# Statistics are taken on a grid of about this many points a side: enough for a median, and fast.
_GRID = 160


class Featureless(Exception):
    """The slice has nothing in it that could be a head."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def normalise(grey: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Bring one grey slice to the network's raster.

    Parameters
    ----------
    grey : numpy.ndarray
        ``(rows, cols)``, any real dtype and unit; brighter means more signal (MONOCHROME2).
    aspect
        Height of a pixel by its width: a head keeps its shape where pixels are not square.

    Returns
    -------
    numpy.ndarray
        ``(150, 150) uint8`` in [0, 255]: head cropped and centred, background near 0, the median of the
        central tissue at 80.

    Raises
    ------
    Featureless
        No contrast, or no region that stands out from the background.
    """
    step = max(1, round(max(grey.shape) / _GRID))
    grid = grey[::step, ::step].astype(np.float32)
    # Two clipped tails: a few hot pixels or one burnt-in white letter must not set the scale.
    low, high = np.percentile(grid, (1.0, 99.5))
    if not high > low:
        raise Featureless(RefusalReason.BLANK, "no contrast between the 1st and the 99.5th percentile")
    threshold = low + _otsu((np.clip(grid, low, high) - low) * (255.0 / (high - low))) * (high - low) / 255.0
    # Half of Otsu's threshold: Otsu alone splits bright fat from the brain where the fat is very bright.
    inside = grid > low + (threshold - low) * 0.5
    top, bottom = _extent(inside.mean(axis=1))
    left, right = _extent(inside[top:bottom].mean(axis=0))
    _check_proportions((bottom - top) / grid.shape[0], (right - left) / grid.shape[1], grey.shape, aspect)
    tissue = _tissue_median(grid[top:bottom, left:right], inside[top:bottom, left:right])
    gain = _TISSUE_LEVEL / (tissue - low)
    box = (
        max(0, left * step),
        max(0, top * step),
        min(grey.shape[1], right * step),
        min(grey.shape[0], bottom * step),
    )
    # In place: each further array of this size costs more in page faults than the arithmetic on it.
    head = grey[box[1] : box[3], box[0] : box[2]].astype(np.float32)
    np.subtract(head, np.float32(low), out=head)
    np.multiply(head, np.float32(gain), out=head)
    np.clip(head, 0.0, 255.0, out=head)
    np.rint(head, out=head)
    return _fit(head.astype(np.uint8), aspect)


def colour(grey: np.ndarray) -> np.ndarray:
    """Grey pictures ``(..., H, W)`` as networks take them: ``(..., H, W, 3) float32``, three channels alike, in the same range."""
    return np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=-1)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold (IEEE SMC 9(1), 1979) of values in [0, 255]."""
    counts = np.bincount(values.astype(np.uint8).ravel(), minlength=256).astype(np.float64)
    levels = np.arange(256, dtype=np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * levels)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / below[-1] - mass) ** 2 / (below * above)
    return float(np.nanargmax(np.where(np.isfinite(between), between, np.nan)))


def _extent(occupied: np.ndarray) -> tuple[int, int]:
    """First and one-past-last index of the longest run that holds tissue in more than 4 % of its line."""
    lines = np.flatnonzero(occupied > 0.04)
    if lines.size < 8:
        raise Featureless(RefusalReason.NO_HEAD, "nothing stands out from the background")
    # A gap of a twentieth of the picture ends a run: text beside the head is another run.
    runs = np.split(lines, np.flatnonzero(np.diff(lines) > max(2, occupied.size // 20)) + 1)
    longest = max(runs, key=len)
    return int(longest[0]), int(longest[-1]) + 1


def _check_proportions(height: float, width: float, shape: tuple[int, ...], aspect: float) -> None:
    """Refuse what is too small or too long for a head; `height` and `width` are its shares of the picture."""
    if min(height, width) < _LEAST_SHARE:
        raise Featureless(RefusalReason.NO_HEAD, "what stands out is too small to be a head")
    length = height * shape[0] * aspect / (width * shape[1])
    if not 1 / _LONGEST < length < _LONGEST:
        raise Featureless(RefusalReason.NO_HEAD, "what stands out is too long to be a head")


def _tissue_median(head: np.ndarray, inside: np.ndarray) -> float:
    """Median of the tissue in the central ellipse of the head: brain, not scalp fat."""
    rows, cols = head.shape
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    centre = inside & (x * x + y * y < 0.5)
    if np.count_nonzero(centre) < 32:
        raise Featureless(RefusalReason.NO_HEAD, "no tissue in the middle of the head")
    return float(np.median(head[centre]))


def _fit(head: np.ndarray, aspect: float) -> np.ndarray:
    """Pad ``(rows, cols) uint8`` to a square with a margin, black, and resize to ``(150, 150)``."""
    rows, cols = head.shape
    inner = round(SIZE * (1 - 2 * _MARGIN))
    height = rows * aspect
    scale = inner / max(height, cols)
    size = (max(1, round(cols * scale)), max(1, round(height * scale)))
    # A box filter over the source pixels when shrinking (antialiased), bilinear when growing.
    resized = np.asarray(Image.fromarray(head).resize(size, Image.Resampling.BILINEAR))
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    y, x = (SIZE - size[1]) // 2, (SIZE - size[0]) // 2
    canvas[y : y + size[1], x : x + size[0]] = resized
    return canvas
