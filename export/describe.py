"""What a bundle will say of itself, from what the training run wrote down."""

from __future__ import annotations

import json
from typing import Any

from slicewise.export.doubt import Doubt
from slicewise.export.run import Run
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import SIZE
from slicewise.worker.model.bundle import Description

# Of all that a run records, this travels with the network. Paths do not: they name people's folders.
_PROVENANCE = ("data", "split", "leaky", "recipe", "begun_from", "taught_by")


def provenance(recorded: dict[str, Any]) -> dict[str, Any]:
    """What a network has seen, and what its teachers have: data set names, fingerprints, split and recipe."""
    return {key: recorded[key] for key in _PROVENANCE if key in recorded}


def describe(run: Run) -> Description:
    """The description of a run's network.

    Raises
    ------
    Misconfigured
        No run, one that does not say what it was trained on, or one of another input size.
    """
    recorded = run.read()
    missing = [key for key in ("labels", "preprocess_version", *_PROVENANCE) if key not in recorded]
    if missing:
        raise Misconfigured(
            f"{run.record} does not say {', '.join(missing)}: 'slicewise train --resume --output {run.folder}' adds it"
        )
    size = recorded["recipe"]["size"]
    if size != SIZE:
        raise Misconfigured(
            f"{run.folder} was trained at {size}x{size}, the worker makes {SIZE}x{SIZE}: go on at {SIZE} with "
            f"'slicewise train --initial {run.model}'"
        )
    doubt = Doubt.load(run.doubt)
    return Description(
        name=recorded["recipe"].get("network", "reference"),
        labels=tuple(recorded["labels"]),
        preprocess_version=recorded["preprocess_version"],
        training=provenance(recorded),
        temperature=doubt.temperature if doubt else None,
        abstain_below=doubt.abstain_below if doubt else None,
        unfamiliar_above=doubt.familiar.limit if doubt and doubt.familiar else None,
        unvouched_above=doubt.familiar.unvouched if doubt and doubt.familiar else None,
        metrics={"validation": json.loads(run.metrics.read_text(encoding="utf-8"))} if run.metrics.exists() else {},
    )
