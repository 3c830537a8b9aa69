"""Feeding decoded pictures to a network: order, augmentation and batches, repeatable epoch by epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from PIL import Image

from slicewise.trainer.data import LABELS, Example
from slicewise.trainer.recipe import Augmentation
from slicewise.worker.imaging import SIZE


def vary(raster: np.ndarray, augmentation: Augmentation, size: int, random: np.random.Generator) -> np.ndarray:
    """``(150, 150) uint8`` to one varied ``(size, size) uint8``."""
    angle = math.radians(random.uniform(-augmentation.rotation, augmentation.rotation))
    zoom = 1 + random.uniform(-augmentation.scale, augmentation.scale)
    dx, dy = random.uniform(-augmentation.shift, augmentation.shift, 2) * raster.shape[0]
    mirror = -1.0 if augmentation.flip and random.random() < 0.5 else 1.0
    gain = 2 ** random.uniform(-augmentation.gain, augmentation.gain)
    gamma = 2 ** random.uniform(-augmentation.gamma, augmentation.gamma)
    # Output pixel to source pixel, about the centre, for Pillow's AFFINE.
    factor = raster.shape[0] / size / zoom
    a, b = mirror * factor * math.cos(angle), mirror * factor * math.sin(angle)
    d, e = -factor * math.sin(angle), factor * math.cos(angle)
    half, centre = size / 2, raster.shape[0] / 2
    matrix: tuple[float, ...] = (a, b, centre + dx - (a + b) * half, d, e, centre + dy - (d + e) * half)
    picture = Image.fromarray(raster)
    if factor > 1.2:  # AFFINE does not antialias
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        matrix = tuple(v / (raster.shape[0] / size) for v in matrix)
    varied = picture.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    curve = np.clip(255 * (np.arange(256) / 255 * gain) ** gamma, 0, 255)
    return np.asarray(varied.point(curve.round().astype(int).tolist()))


@dataclass
class Feed(keras.utils.PyDataset):
    """Batches of ``(n, size, size, 3) float32`` in [0, 255] and one-hot labels ``(n, 4) float32``.

    The order and the variations of an epoch depend on the seed and the epoch alone, so a resumed run sees
    what an unbroken one would have seen. Give it to ``fit`` with ``shuffle=False``: Keras would put the batches
    into another order of its own, by Python's global random numbers.
    """

    pixels: np.ndarray
    examples: Sequence[Example]
    batch: int
    size: int = SIZE
    augmentation: Augmentation | None = None
    one_per_group: bool = False
    shuffle: bool = False
    seed: int = 0
    _epoch: int = field(init=False, default=0)
    _order: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=6)
        self._targets = np.array([LABELS.index(e.label) for e in self.examples])
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Go to the start of an epoch, counted from 0."""
        self._epoch = epoch
        random = np.random.default_rng((self.seed, epoch))
        order = np.arange(len(self.examples))
        if self.one_per_group:
            members = defaultdict(list)
            for i, e in enumerate(self.examples):
                members[e.group].append(i)
            order = np.array([random.choice(m) for m in members.values()])
        self._order = random.permutation(order) if self.shuffle else order

    def on_epoch_end(self) -> None:
        self.begin(self._epoch + 1)

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * self.batch : (index + 1) * self.batch]
        random = np.random.default_rng((self.seed, self._epoch, index))
        grey = np.stack([self._one(self.pixels[i], random) for i in chosen]).astype(np.float32)
        return np.repeat(grey[..., None], 3, axis=-1), np.eye(len(LABELS), dtype=np.float32)[self._targets[chosen]]

    def _one(self, raster: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.augmentation:
            return vary(raster, self.augmentation, self.size, random)
        if self.size == raster.shape[0]:
            return raster
        return np.asarray(Image.fromarray(raster).resize((self.size, self.size), Image.Resampling.BILINEAR))
