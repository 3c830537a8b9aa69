"""Pictures of nothing, for a network to learn that it cannot tell (outlier exposure, Hendrycks et al. 2019).

They are drawn by chance, and only those are kept that imaging would let through: noise of every colour, tiles of heads in a
wrong order, shapes, and plain ellipses with organs of no anatomy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from slicewise.worker.errors import Refused
from slicewise.worker.imaging import SIZE, to_raster
from slicewise.worker.imaging.scan import Slice

_SIDE = 160
_Y, _X = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]


def draw(count: int, heads: np.ndarray, seed: int) -> np.ndarray:
    """Strangers, always the same for a seed.

    Parameters
    ----------
    heads : numpy.ndarray
        ``(N, 150, 150) uint8`` slices whose tiles are put into a wrong order.

    Returns
    -------
    numpy.ndarray
        ``(count, 150, 150) uint8``.
    """
    random = np.random.default_rng((seed, 0x57A6))
    kinds: list[Callable[[np.random.Generator, np.ndarray], np.ndarray]] = [_noise, _tiles, _shapes, _organs]
    found: list[np.ndarray] = []
    while len(found) < count:
        # In turn, by what is kept: imaging refuses most shapes and hardly any tiles.
        kind = kinds[len(found) % len(kinds)]
        head = heads[random.integers(len(heads))]
        try:
            found.append(to_raster(Slice(kind(random, head).astype(np.uint8), 1)))
        except Refused:
            continue
    return np.stack(found) if found else np.empty((0, SIZE, SIZE), np.uint8)


def _noise(random: np.random.Generator, _head: np.ndarray) -> np.ndarray:
    """Noise whose power falls with frequency, as in photographs; sometimes cut out like a head."""
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)) + 1 / _SIDE
    shaped = np.fft.fft2(random.standard_normal((_SIDE, _SIDE))) / frequency ** random.uniform(0.8, 2.5)
    noise = _stretched(np.fft.ifft2(shaped).real)
    if random.random() < 0.5:
        noise = (40 + noise * 0.8) * _ellipse(random, 0.95)
    return noise


def _tiles(random: np.random.Generator, head: np.ndarray) -> np.ndarray:
    """A head whose tiles have changed places."""
    across = int(random.integers(3, 7))
    side = SIZE // across
    whole = head[: side * across, : side * across]
    tiles = whole.reshape(across, side, across, side).swapaxes(1, 2).reshape(-1, side, side)
    mixed = tiles[random.permutation(len(tiles))].reshape(across, across, side, side)
    return np.asarray(mixed.swapaxes(1, 2).reshape(side * across, -1))


def _shapes(random: np.random.Generator, _head: np.ndarray) -> np.ndarray:
    """Lines, boxes and ellipses over a drifting ground."""
    ground = Image.fromarray(_stretched(random.standard_normal((4, 4))).astype(np.uint8))
    picture = ground.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(random.integers(3, 40)):
        left, top, right, bottom = random.integers(0, _SIDE, 4).tolist()
        box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        grey, kind = int(random.integers(256)), random.integers(3)
        if kind == 0:
            pen.line((left, top, right, bottom), grey, int(random.integers(1, 6)))
        elif kind == 1:
            pen.rectangle(box, grey)
        else:
            pen.ellipse(box, grey)
    return _grained(random, np.asarray(picture, float))


def _organs(random: np.random.Generator, _head: np.ndarray) -> np.ndarray:
    """A body with organs: an ellipse, mostly with a bright rim, with further ones in it."""
    body = _ellipse(random, 0.95)
    grey = body * random.uniform(60, 180)
    for _ in range(random.integers(2, 9)):
        grey = np.where(body & _ellipse(random, 0.5, 0.6), random.uniform(0, 255), grey)
    if random.random() < 0.6:
        rim = body & ~np.roll(body, random.integers(2, 10), axis=random.integers(2))
        grey = np.where(rim, random.uniform(180, 255), grey)
    return _grained(random, grey)


def _ellipse(random: np.random.Generator, largest: float, away: float = 0.0) -> np.ndarray:
    height, width = random.uniform(0.15 if away else 0.7, largest, 2)
    y, x = random.uniform(-away, away, 2) if away else (0.0, 0.0)
    return np.asarray(((_X - x) / width) ** 2 + ((_Y - y) / height) ** 2 < 1)


def _grained(random: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    return np.clip(grey + random.normal(0, random.uniform(1, 12), grey.shape) * (grey > 0), 0, 255)


def _stretched(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.min()) / max(float(np.ptp(values)), 1e-9) * 255)
