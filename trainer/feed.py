"""Feeding decoded pictures to a network: order, augmentation and batches, repeatable epoch by epoch."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from PIL import Image

from slicewise.trainer.data import LABELS, Example
from slicewise.trainer.recipe import Augmentation
from slicewise.worker.imaging import SIZE, colour
from slicewise.worker.model.session import Model

_BEST_JPEG = 95
"""Above it JPEG only grows (Pillow's documentation)."""

_AIR = 16
"""The brightest grey level that counts as outside of a head."""


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
    return _worsened(varied.point(curve.round().astype(int).tolist()), augmentation, random)


def _worsened(picture: Image.Image, augmentation: Augmentation, random: np.random.Generator) -> np.ndarray:
    """As another scanner or archive might have it: less sharp, packed, unevenly bright, noisy; each half of the time."""
    size = picture.size
    if augmentation.coarse and random.random() < 0.5:
        side = max(1, round(size[0] * (1 - random.uniform(0, augmentation.coarse))))
        picture = picture.resize((side, side), Image.Resampling.BILINEAR).resize(size, Image.Resampling.BILINEAR)
    if augmentation.bias and random.random() < 0.5:
        # Three by three points that a smooth field runs through.
        points = 2 ** random.uniform(-augmentation.bias, augmentation.bias, (3, 3)).astype(np.float32)
        picture = _picture(picture * np.asarray(Image.fromarray(points).resize(size, Image.Resampling.BICUBIC)))
    if augmentation.noise and random.random() < 0.5:
        deviation = random.uniform(0, augmentation.noise)
        # Of a magnitude picture: Rician (Gudbjartsson & Patz 1995).
        real, imaginary = random.standard_normal((2, *size), np.float32) * deviation
        picture = _picture(np.hypot(picture + real, imaginary))
    if augmentation.jpeg and random.random() < 0.5:
        coded = io.BytesIO()
        picture.save(coded, "JPEG", quality=round(_BEST_JPEG * (1 - random.uniform(0, augmentation.jpeg))))
        picture = Image.open(coded)
    return np.asarray(picture)


def _picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def _patched(
    grey: np.ndarray, wanted: np.ndarray, alpha: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A box of each picture's counterpart over it; what lies outside of a head says nothing, so it counts for no label."""
    patched, mixed = grey.copy(), wanted.copy()
    side = grey.shape[1]
    for i, (other, says) in enumerate(zip(grey[::-1], wanted[::-1], strict=True)):
        # Centres lie anywhere, so boxes may hang over the edge (Yun et al. 2019, section 3.1).
        half = side * math.sqrt(1 - random.beta(alpha, alpha)) / 2
        y, x = random.uniform(0, side, 2)
        box = tuple(slice(max(0, round(at - half)), min(side, round(at + half))) for at in (y, x))
        patched[i][box] = other[box]
        head = patched[i] > _AIR
        share = np.float32(head[box].sum() / max(1, head.sum()))
        mixed[i] = (1 - share) * wanted[i] + share * says
    return patched, mixed


@dataclass
class Feed(keras.utils.PyDataset):
    """Batches of ``(n, size, size, 3) float32`` in [0, 255] and one-hot labels ``(n, 4) float32``.

    The order and the variations of an epoch depend on the seed and the epoch alone, so a resumed run sees
    what an unbroken one would have seen. Give it to ``fit`` with ``shuffle=False``: Keras would put the batches
    into another order of its own, by Python's global random numbers.

    Where there are `strangers`, ``(n, 150, 150) uint8``, they take the places of a `share` of each batch, and every class is
    their label alike.

    Where there are `teachers`, what one of them, each in its turn, says of the pictures as they are shown makes up a share
    `teaching` of their labels: turned, mixed and all (function matching, Beyer et al. 2022).
    """

    pixels: np.ndarray
    examples: Sequence[Example]
    batch: int
    size: int = SIZE
    augmentation: Augmentation | None = None
    one_per_group: bool = False
    shuffle: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    strangers: np.ndarray | None = None
    share: float = 0.0
    teachers: Sequence[Model] = ()
    teaching: float = 0.0
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
        rasters, wanted = self.pixels[chosen], np.eye(len(LABELS), dtype=np.float32)[self._targets[chosen]]
        if self.strangers is not None and (count := round(self.share * len(chosen))):
            rasters[-count:] = self.strangers[random.integers(len(self.strangers), size=count)]
            wanted[-count:] = 1 / len(LABELS)
        grey = np.stack([self._one(raster, random) for raster in rasters]).astype(np.float32)
        if self.cutmix and (not self.mixup or random.random() < 0.5):
            grey, wanted = _patched(grey, wanted, self.cutmix, random)
        elif self.mixup:
            share = np.float32(random.beta(self.mixup, self.mixup))
            grey, wanted = (share * each + (1 - share) * each[::-1] for each in (grey, wanted))
        if self.teachers:
            teacher = self.teachers[(self._epoch + index) % len(self.teachers)]
            said = teacher.score(np.rint(grey).astype(np.uint8)).probabilities
            wanted = (1 - self.teaching) * wanted + self.teaching * said
        return colour(grey), wanted

    def _one(self, raster: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.augmentation:
            return vary(raster, self.augmentation, self.size, random)
        if self.size == raster.shape[0]:
            return raster
        return np.asarray(Image.fromarray(raster).resize((self.size, self.size), Image.Resampling.BILINEAR))
