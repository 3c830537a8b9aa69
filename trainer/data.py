"""Labelled pictures on disk: finding them, splitting them, feeding them to a network."""

from __future__ import annotations

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from rich.progress import track

from slicewise.trainer.network import LABELS
from slicewise.worker.errors import Misconfigured, Refused
from slicewise.worker.imaging import SIZE, load, to_raster

# Folder names of the public data sets, compared in lower case and without separators.
_FOLDERS = {
    **{label.replace("_", ""): label for label in LABELS},
    "gliomatumor": "glioma",
    "meningiomatumor": "meningioma",
    "pituitarytumor": "pituitary",
}


@dataclass(frozen=True)
class Example:
    """One labelled picture.

    `group` joins near-copies: examples that share one never straddle a split. Without a groups file every
    picture is its own group. `official` is ``Training``, ``Testing`` or empty.
    """

    path: Path
    label: str
    official: str
    group: str
    fold: int | None = None
    ambiguous: bool = False


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of examples and how they were parted."""

    training: list[Example]
    validation: list[Example]
    description: str
    leaky: bool


def find(roots: Iterable[Path], groups: Path | None = None) -> list[Example]:
    """Every picture below `roots` that lies in a folder named after a class.

    Parameters
    ----------
    roots
        Data set folders, with or without ``Training``/``Testing`` inside.
    groups
        CSV with the columns ``path`` (relative to the CSV), ``pooled_group``, ``fold5`` and
        ``group_mixed_label``.

    Raises
    ------
    Misconfigured
        A class without a single picture, or a picture that the groups file does not name.
    """
    found = []
    for root in roots:
        for path in sorted(root.rglob("*")):
            label = _FOLDERS.get(path.parent.name.lower().replace("_", "").replace(" ", ""))
            if label and path.suffix.lower() in {".jpg", ".jpeg", ".png", ".dcm"}:
                official = path.parent.parent.name.capitalize()
                official = official if official in {"Training", "Testing"} else ""
                found.append(Example(path, label, official, group=str(path)))
    missing = [label for label in LABELS if all(e.label != label for e in found)]
    if missing:
        raise Misconfigured(
            f"no pictures of {', '.join(missing)} below {', '.join(map(str, roots))}: "
            f"give a folder that holds one folder per class ({', '.join(LABELS)})"
        )
    return _grouped(found, groups) if groups else found


def _grouped(found: list[Example], groups: Path) -> list[Example]:
    with groups.open(newline="") as handle:
        audit = {(groups.parent / row["path"]).resolve(): row for row in csv.DictReader(handle)}
    joined = []
    for example in found:
        row = audit.get(example.path.resolve())
        if row is None:
            raise Misconfigured(f"{groups} does not name {example.path}: it cannot keep near-copies together")
        joined.append(
            replace(
                example,
                group=row["pooled_group"],
                fold=int(row["fold5"]),
                ambiguous=row["group_mixed_label"] == "1",
            )
        )
    return joined


def split(examples: Sequence[Example], how: str, *, fraction: float = 0.1, fold: int = 0, seed: int = 0) -> Split:
    """Part examples into training and validation.

    Parameters
    ----------
    how : {"random", "group", "fold", "official"}
        ``random``: stratified by class, near-copies ignored (the paper's protocol: leaky). ``group``: the
        same share, whole groups. ``fold``: one fold of the groups file. ``official``: Testing validates.
    fraction : float
        Share of each class that validates, in (0, 1); for ``random`` and ``group``.
    """
    if how == "fold":
        if any(e.fold is None for e in examples):
            raise Misconfigured("split by fold needs a groups file with a fold5 column: give --groups")
        held = {e.path for e in examples if e.fold == fold}
        text, leaky = f"group-disjoint, fold {fold} of 5 validates", False
    elif how == "official":
        held = {e.path for e in examples if e.official == "Testing"}
        text, leaky = "official Training/Testing (leaky: near-copies straddle it)", True
    elif how in {"random", "group"}:
        held = _draw(examples, fraction, seed, by_group=how == "group")
        grouped = how == "group" and any(e.fold is not None for e in examples)
        text = f"{how}, {fraction:g} of each class validates, seed {seed}"
        leaky = not grouped
        text += " (leaky: near-copies straddle it)" if leaky else ""
    else:
        raise Misconfigured(f"no split is called {how}: random, group, fold or official")
    training = [e for e in examples if e.path not in held]
    validation = [e for e in examples if e.path in held]
    if not training or not validation:
        raise Misconfigured(f"the split '{how}' leaves {len(training)} to train on and {len(validation)} to validate")
    if not leaky:
        # A group that carries two labels teaches nothing; it still counts in validation.
        training = [e for e in training if not e.ambiguous]
    return Split(training, validation, text, leaky)


def _draw(examples: Sequence[Example], fraction: float, seed: int, *, by_group: bool) -> set[Path]:
    """Draw a share of each class, by a hash of the seed and the name: the same on every machine."""
    held: set[Path] = set()
    for label in LABELS:
        units: dict[str, list[Example]] = defaultdict(list)
        for e in examples:
            if e.label == label:
                units[e.group if by_group else "/".join(e.path.parts[-3:])].append(e)
        wanted = round(fraction * sum(map(len, units.values())))
        taken = 0
        for unit in sorted(units, key=lambda u: hashlib.sha256(f"{seed}:{u}".encode()).digest()):
            if taken >= wanted:
                break
            held.update(e.path for e in units[unit])
            taken += len(units[unit])
    return held


def rasters(examples: Sequence[Example], progress: str = "reading") -> tuple[np.ndarray, list[Example]]:
    """Decode and normalise by the worker's own imaging.

    Returns
    -------
    numpy.ndarray
        ``(N, 150, 150) uint8`` in [0, 255].
    list of Example
        The N examples that could be assessed: what imaging refuses is left out, as in serving.
    """
    kept, planes = [], []
    for example in track(examples, progress, transient=True):
        try:
            (plane,) = load(example.path.read_bytes())
            planes.append(to_raster(plane))
        except Refused:
            continue
        kept.append(example)
    return np.stack(planes) if planes else np.empty((0, SIZE, SIZE), np.uint8), kept


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may stray from its source. Zero switches a part off.

    `rotation` in degrees, `scale` and `shift` as shares of the side, `flip` horizontally with probability
    one half, `gain` and `gamma` as spreads of log2: brightness and contrast leak the class in the public sets.
    """

    rotation: float = 10.0
    scale: float = 0.1
    shift: float = 0.04
    flip: bool = True
    gain: float = 0.3
    gamma: float = 0.3

    def apply(self, raster: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
        """``(150, 150) uint8`` to one varied ``(size, size) uint8``."""
        angle = math.radians(random.uniform(-self.rotation, self.rotation))
        zoom = 1 + random.uniform(-self.scale, self.scale)
        dx, dy = random.uniform(-self.shift, self.shift, 2) * raster.shape[0]
        mirror = -1.0 if self.flip and random.random() < 0.5 else 1.0
        gain, gamma = 2 ** random.uniform(-self.gain, self.gain), 2 ** random.uniform(-self.gamma, self.gamma)
        # Output pixel to source pixel, about the centre, for Pillow's AFFINE.
        factor = raster.shape[0] / size / zoom
        a, b = mirror * factor * math.cos(angle), mirror * factor * math.sin(angle)
        d, e = -factor * math.sin(angle), factor * math.cos(angle)
        half, centre = size / 2, raster.shape[0] / 2
        matrix = (a, b, centre + dx - (a + b) * half, d, e, centre + dy - (d + e) * half)
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
    what an unbroken one would have seen.
    """

    pixels: np.ndarray
    examples: Sequence[Example]
    batch: int
    size: int = SIZE
    augmentation: Augmentation | None = None
    one_per_group: bool = False
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    _order: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=6)
        self._targets = np.array([LABELS.index(e.label) for e in self.examples])
        self._arrange()

    def _arrange(self) -> None:
        random = np.random.default_rng((self.seed, self.epoch))
        order = np.arange(len(self.examples))
        if self.one_per_group:
            members = defaultdict(list)
            for i, e in enumerate(self.examples):
                members[e.group].append(i)
            order = np.array([random.choice(m) for m in members.values()])
        self._order = random.permutation(order) if self.shuffle else order

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * self.batch : (index + 1) * self.batch]
        random = np.random.default_rng((self.seed, self.epoch, index))
        grey = np.stack([self._one(self.pixels[i], random) for i in chosen]).astype(np.float32)
        return np.repeat(grey[..., None], 3, axis=-1), np.eye(len(LABELS), dtype=np.float32)[self._targets[chosen]]

    def _one(self, raster: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if self.augmentation:
            return self.augmentation.apply(raster, self.size, random)
        if self.size == raster.shape[0]:
            return raster
        return np.asarray(Image.fromarray(raster).resize((self.size, self.size), Image.Resampling.BILINEAR))

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self._arrange()
