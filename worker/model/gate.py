"""What a bundle has to show before it serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slicewise.worker.findings import Finding
from slicewise.worker.model import verify
from slicewise.worker.model.session import Model

LEAST_CHANGE = -0.003
"""So much may the share of right answers change, on the same pictures: 0.3 points are less than two fits of one network differ by."""

LEAST_AGREEMENT = 0.98
"""Share of slices whose label a variant, made from the one that serves, has to keep."""


def check(candidate: Model, serving: Model, measured: Iterable[Mapping[str, Any]] = ()) -> list[Finding]:
    """Whether a candidate may take the place of the one that serves.

    Parameters
    ----------
    measured
        Figures beside those in the bundles' own descriptions, as ``slicewise evaluate --output`` writes them.
    """
    findings = verify.check(candidate)
    same = sorted(candidate.labels) == sorted(serving.labels)
    findings.append(
        Finding(
            same, f"its labels are {', '.join(candidate.labels)}{'' if same else ': not those of the one that serves'}"
        )
    )
    described = candidate.description
    agreement = described.metrics.get("agreement") if described.made_from == serving.sha256 else None
    if agreement:
        kept = f"{agreement['labels']:.1%} of {agreement['slices']} slices kept their label"
        findings.append(Finding(agreement["labels"] >= LEAST_AGREEMENT, f"made from the one that serves: {kept}"))
    ours, theirs = (_by_pictures(model, measured) for model in (candidate, serving))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared and not agreement:
        remedy = (
            "measure both with 'slicewise evaluate --output' and give the files as --figures, or promote it --anyway"
        )
        findings.append(Finding(False, f"no figures of both on the same pictures: {remedy}"))
    for pictures in shared:
        before, after = theirs[pictures], ours[pictures]
        findings.append(
            Finding(
                after["accuracy"] - before["accuracy"] >= LEAST_CHANGE,
                f"{after['accuracy']:.1%} right, {before['accuracy']:.1%} by the one that serves, on the same {after['pictures']} pictures",
            )
        )
    return findings


def _by_pictures(model: Model, measured: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Figures of a model by the fingerprint of the pictures that they were measured on."""
    found = {one["fingerprint"]: one for one in measured if one.get("bundle") == model.sha256}
    own = model.description.metrics.get("validation")
    pictures = model.description.training.get("data", {}).get("validation", {}).get("fingerprint")
    return found | ({pictures: own} if own and pictures else {})
