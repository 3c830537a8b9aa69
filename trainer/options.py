"""Options that ``train`` and ``evaluate`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from slicewise.trainer.recipe import SPLITS, Selection


def add_split(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    """How pictures are parted; `selection` reads it."""
    group = parser.add_argument_group("split")
    group.add_argument("--groups", type=Path, metavar="CSV", help="near-copies: path, pooled_group, fold5 and more")
    group.add_argument("--split", choices=SPLITS, default=default, help=text)
    add(group, "fraction", float, Selection.fraction, "share of each class that validates (random, group)")
    add(group, "fold", int, Selection.fold, "which fold validates (fold)")
    add(group, "seed", int, Selection.seed, "of every random choice")


def add(group: argparse._ArgumentGroup, name: str, kind: type, default: Any, text: str) -> None:
    """An option with the default of the class that it fills, so that it stands in one place."""
    group.add_argument(
        f"--{name.replace('_', '-')}", type=kind, default=default, metavar="X", help=f"{text} (default: %(default)s)"
    )


def selection(options: argparse.Namespace) -> Selection:
    """What was asked for."""
    return Selection(
        roots=tuple(str(path.resolve()) for path in options.paths),
        groups=str(options.groups.resolve()) if options.groups else None,
        how=options.split,
        fraction=options.fraction,
        fold=options.fold,
        seed=options.seed,
    )
