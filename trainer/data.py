"""Labelled pictures on disk: finding them, splitting them, decoding them. No TensorFlow here."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from slicewise.db.reasons import RefusalReason
from slicewise.trainer.recipe import SPLITS, Selection
from slicewise.worker.errors import Misconfigured, Refused
from slicewise.worker.imaging import SIZE, Slice, open_scan, to_raster

LABELS = ("glioma", "meningioma", "no_tumor", "pituitary")
"""The classes, in the order of the network's outputs. An exported bundle carries its own copy."""

FOLDS = 5
"""Folds of a groups file: its column ``fold5`` counts from 0."""

# Folder names of the public data sets, compared in lower case and without separators.
_FOLDERS = {
    **{label.replace("_", ""): label for label in LABELS},
    "gliomatumor": "glioma",
    "meningiomatumor": "meningioma",
    "pituitarytumor": "pituitary",
}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".dcm"}


@dataclass(frozen=True)
class Example:
    """One labelled picture.

    `name` is its place below the data set's folder, that folder included: the same on every machine. `group` joins
    near-copies: examples that share one never straddle a split. Without a groups file every picture is its own
    group. `official` is ``Training``, ``Testing`` or empty.
    """

    path: Path
    name: str
    label: str
    official: str
    group: str
    fold: int | None = None
    ambiguous: bool = False


@dataclass(frozen=True)
class Split:
    """Two disjoint sets of examples, how they were parted, and what was asked for."""

    training: list[Example]
    validation: list[Example]
    description: str
    leaky: bool
    selection: Selection | None = None


class Rasters(NamedTuple):
    """Decoded pictures, and what imaging refused.

    `pixels` is ``(N, 150, 150) uint8`` in [0, 255]; `examples` names each of the N (a multi-frame file more than
    once); `refused` holds the examples without a raster, as in serving, each with its reason. `vouched` says of each of
    the N whether its header vouches for it, see `slicewise.worker.model.session.Model.doubt`; empty where nobody asks.
    """

    pixels: np.ndarray
    examples: list[Example]
    refused: list[tuple[Example, RefusalReason]]
    vouched: Sequence[bool] = ()


def find(roots: Iterable[Path], groups: Path | None = None, *, every_class: bool = True) -> list[Example]:
    """Every picture below `roots`, labelled by the folder it lies in.

    Parameters
    ----------
    roots
        Data set folders, with or without ``Training``/``Testing`` inside.
    groups
        CSV with the columns ``path`` (relative to the CSV), ``pooled_group``, ``fold5`` and
        ``group_mixed_label``.
    every_class
        Whether a class without a single picture is an error.

    Raises
    ------
    Misconfigured
        A picture in a folder that is no class, a class without a single picture, or a picture that the groups
        file does not name.
    """
    found = []
    for root in roots:
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES):
            label = _FOLDERS.get(path.parent.name.lower().replace("_", "").replace(" ", ""))
            if label is None:
                raise Misconfigured(
                    f"{path} lies in no class: name its folder after one ({', '.join(LABELS)}), or move it away"
                )
            official = path.parent.parent.name.capitalize()
            official = official if official in {"Training", "Testing"} else ""
            name = f"{root.resolve().name}/{path.relative_to(root).as_posix()}"
            found.append(Example(path, name, label, official, group=name))
    missing = [label for label in LABELS if all(e.label != label for e in found)]
    if missing and (every_class or not found):
        raise Misconfigured(
            f"no pictures of {', '.join(missing)} below {', '.join(map(str, roots))}: "
            f"give a folder that holds one folder per class ({', '.join(LABELS)})"
        )
    return _grouped(found, groups) if groups else found


def _grouped(found: list[Example], groups: Path) -> list[Example]:
    try:
        with groups.open(newline="", encoding="utf-8") as handle:
            audit = {(groups.parent / row["path"]).resolve(): row for row in csv.DictReader(handle)}
    except FileNotFoundError:
        raise Misconfigured(f"no groups file at {groups}: give --groups the CSV of near-copies") from None
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


def select(selection: Selection) -> Split:
    """Find and part the pictures that a person asked for."""
    groups = Path(selection.groups) if selection.groups else None
    examples = find([Path(root) for root in selection.roots], groups)
    parted = split(examples, selection.how, fraction=selection.fraction, fold=selection.fold, seed=selection.seed)
    return replace(parted, selection=selection)


def split(examples: Sequence[Example], how: str, *, fraction: float = 0.1, fold: int = 0, seed: int = 0) -> Split:
    """Part examples into training and validation.

    Parameters
    ----------
    how : {"random", "group", "fold", "official"}
        ``random``: stratified by class, near-copies ignored (the paper's protocol: leaky). ``group``: the
        same share, whole groups. ``fold``: one fold of the groups file. ``official``: Testing validates.
    fraction : float
        Share of each class that validates, in (0, 1); for ``random`` and ``group``.

    Raises
    ------
    Misconfigured
        No such split, no fold to split by, or nothing left on one side.
    """
    if how == "fold":
        if any(e.fold is None for e in examples):
            raise Misconfigured("split by fold needs a groups file with a fold5 column: give --groups")
        held = {e.path for e in examples if e.fold == fold}
        text, leaky = f"group-disjoint, fold {fold} of {FOLDS} validates", False
    elif how == "official":
        held = {e.path for e in examples if e.official == "Testing"}
        text, leaky = "official Training/Testing (leaky: near-copies straddle it)", True
    elif how in {"random", "group"}:
        if how == "group" and any(e.fold is None for e in examples):
            raise Misconfigured("split by group needs a groups file that names near-copies: give --groups")
        held = _draw(examples, fraction, seed, by_group=how == "group")
        text = f"{how}, {fraction:g} of each class validates, seed {seed}"
        leaky = how == "random"
        text += " (leaky: near-copies straddle it)" if leaky else ""
    else:
        raise Misconfigured(f"no split is called {how}: {', '.join(SPLITS)}")
    training = [e for e in examples if e.path not in held]
    validation = [e for e in examples if e.path in held]
    if not training or not validation:
        remedy = (
            "it needs the folders Training and Testing" if how == "official" else "give more pictures or another split"
        )
        raise Misconfigured(
            f"the split '{how}' leaves {len(training)} to train on and {len(validation)} to validate: {remedy}"
        )
    if not leaky:
        # A group that carries two labels teaches nothing; it still counts in validation.
        training = [e for e in training if not e.ambiguous]
    return Split(training, validation, text, leaky)


def apart_from(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples that share no group with any of `others`.

    Raises
    ------
    Misconfigured
        Without a groups file nothing is known of near-copies; or no example is left.
    """
    if any(e.fold is None for e in (*examples, *others)):
        raise Misconfigured("near-copies can be left out only where a groups file names them: give --groups")
    known = {e.group for e in others}
    left = [e for e in examples if e.group not in known]
    if not left:
        raise Misconfigured("every picture has a near-copy there: nothing is left to evaluate")
    return left


def _draw(examples: Sequence[Example], fraction: float, seed: int, *, by_group: bool) -> set[Path]:
    """Draw a share of each class, by a hash of the seed and the name: the same on every machine."""

    def unit(example: Example) -> str:
        return example.group if by_group else "/".join(example.path.parts[-3:])

    held: set[str] = set()
    for label in LABELS:
        sizes = Counter(unit(e) for e in examples if e.label == label)
        wanted = round(fraction * sizes.total())
        taken = 0
        for name in sorted(sizes, key=lambda u: hashlib.sha256(f"{seed}:{u}".encode()).digest()):
            if taken >= wanted:
                break
            held.add(name)
            taken += sizes[name]
    # Not class by class: a group that carries two labels goes over as a whole.
    return {e.path for e in examples if unit(e) in held}


def rasters(examples: Sequence[Example], progress: str = "reading") -> Rasters:
    """Decode and normalise by the worker's own imaging, with a progress bar on standard error."""
    pixels: list[np.ndarray] = []
    kept: list[Example] = []
    refused: list[tuple[Example, RefusalReason]] = []
    vouched: list[bool] = []
    console = Console(stderr=True)
    for example in track(examples, progress, console=console, transient=True, disable=not console.is_terminal):
        try:
            scan = open_scan(example.path.read_bytes())
            frames = [to_raster(decoded) for decoded in scan.slices() if isinstance(decoded, Slice)]
        except Refused as error:
            refused.append((example, error.reason))
            continue
        pixels += frames
        kept += [example] * len(frames)
        vouched += [scan.header.vouches] * len(frames)
    stacked = np.stack(pixels) if pixels else np.empty((0, SIZE, SIZE), np.uint8)
    return Rasters(stacked, kept, refused, vouched)


def census(examples: Sequence[Example]) -> dict[str, Any]:
    """What a set of pictures consists of, and a fingerprint that holds for these pictures alone.

    The fingerprint is the hex SHA-256 of the sorted lines ``name content-sha256``: it depends on no folder above
    the data set's own and on no order.
    """
    pictures = {e.name: e for e in examples}
    lines = sorted(f"{name} {hashlib.sha256(e.path.read_bytes()).hexdigest()}" for name, e in pictures.items())
    counts = Counter(e.label for e in pictures.values())
    return {
        "sets": sorted({name.partition("/")[0] for name in pictures}),
        "pictures": len(pictures),
        "per_class": {label: counts[label] for label in LABELS},
        "fingerprint": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }
