"""How good the answers are: figures from probabilities and true labels, in NumPy alone.

A bundle is evaluated through the worker's own imaging and session, so that the figures are those of serving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slicewise.trainer import calibration, data
from slicewise.worker.errors import Misconfigured
from slicewise.worker.model import session

_DRAWS = 2000


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """``(classes, classes) int64`` counts: rows are the true class, columns the predicted one."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def precision_recall(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two ``(classes,) float64``; NaN where a class was never predicted, or never there."""
    hits = np.diag(confusion).astype(float)
    with np.errstate(invalid="ignore"):
        return hits / confusion.sum(axis=0), hits / confusion.sum(axis=1)


def representatives(groups: Sequence[str]) -> np.ndarray:
    """``(G,) int64``: the index of the first member of each group, one picture for many near-copies."""
    return np.sort(np.unique(np.asarray(groups), return_index=True)[1])


def bootstrap_interval(correct: np.ndarray, groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the accuracy, drawing whole groups (Efron & Tibshirani 1993, section 13).

    Near-copies are right or wrong together: drawing single pictures would make the interval too narrow.
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes, hits = np.bincount(member), np.bincount(member, weights=correct)
    random = np.random.default_rng(seed)
    drawn = (random.integers(sizes.size, size=sizes.size) for _ in range(_DRAWS))
    low, high = np.percentile([hits[chosen].sum() / sizes[chosen].sum() for chosen in drawn], (2.5, 97.5))
    return float(low), float(high)


def metrics(
    probabilities: np.ndarray, truth: np.ndarray, groups: Sequence[str], labels: Sequence[str]
) -> dict[str, Any]:
    """Every figure, ready for JSON.

    Parameters
    ----------
    probabilities
        ``(N, len(labels)) float32``, N at least 1, columns in the order of `labels`.
    truth
        ``(N,)`` indices into `labels`.
    groups
        N names; pictures that share one are near-copies.
    """
    predicted = probabilities.argmax(axis=1)
    correct = predicted == truth
    confusion = confusion_matrix(truth, predicted, len(labels))
    precision, recall = precision_recall(confusion)
    first = representatives(groups)
    likelihood = np.clip(probabilities[np.arange(len(truth)), truth].astype(float), 1e-7, 1.0)
    return {
        "pictures": len(truth),
        "accuracy": float(correct.mean()),
        "accuracy_95": list(bootstrap_interval(correct, groups)),
        "groups": len(first),
        "accuracy_one_per_group": float(correct[first].mean()),
        "log_loss": float(-np.log(likelihood).mean()),
        **calibration.figures(probabilities, truth),
        "classes": {
            label: {
                "precision": _number(precision[i]),
                "recall": _number(recall[i]),
                "support": int(confusion[i].sum()),
            }
            for i, label in enumerate(labels)
        },
        "labels": list(labels),
        "confusion": confusion.tolist(),
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)


def trained_on(training: Mapping[str, Any]) -> set[str | None]:
    """Fingerprints of all that a network was trained on, by its own account; None where it does not say.

    Parameters
    ----------
    training
        What a bundle, or ``run.json``, says of its training; see `slicewise.export.describe.provenance`.
    """
    begun_from = training.get("begun_from")
    own = training.get("data", {}).get("training", {}).get("fingerprint")
    return {own} | (trained_on(begun_from) if begun_from else set())


@dataclass(frozen=True)
class Scored:
    """Pictures with the answers of a network.

    `labels` names the columns of `probabilities`, ``(N, len(labels)) float32``; the N rows are those of `rasters`.
    `training` is what the network says of its own training; `doubts` is, for each row, why a worker would not label it, or
    None; it is empty where the network has no doubts.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    rasters: data.Rasters
    training: Mapping[str, Any] = field(default_factory=dict)
    doubts: Sequence[str | None] = ()

    @property
    def truth(self) -> np.ndarray:
        """``(N,) int64``: the true class of each picture, as a column of `probabilities`."""
        unknown = sorted({e.label for e in self.rasters.examples} - set(self.labels))
        if unknown:
            raise Misconfigured(
                f"the network does not know {', '.join(unknown)}, only {', '.join(self.labels)}: "
                "evaluate it on pictures of its own classes"
            )
        return np.array([self.labels.index(e.label) for e in self.rasters.examples], dtype=np.int64)

    @property
    def predicted(self) -> np.ndarray:
        """``(N,) int64``: the most probable class of each picture."""
        return np.asarray(self.probabilities.argmax(axis=1))

    def metrics(self, split: str) -> dict[str, Any]:
        """Every figure, with the words that say which pictures they were measured on.

        Raises
        ------
        Misconfigured
            Imaging refused every picture, or the network does not know a picture's class.
        """
        if not self.rasters.examples:
            raise Misconfigured(f"imaging refuses all {len(self.rasters.refused)} pictures: are they head slices?")
        groups = [example.group for example in self.rasters.examples]
        return {
            "split": split,
            **metrics(self.probabilities, self.truth, groups, self.labels),
            "doubt": self._doubt(),
            "refused": len(self.rasters.refused),
            "refused_by_reason": dict(sorted(Counter(str(reason) for _, reason in self.rasters.refused).items())),
        }

    def _doubt(self) -> dict[str, Any] | None:
        """What comes of keeping silent, as a worker would."""
        if not self.doubts:
            return None
        given = np.array([doubt is None for doubt in self.doubts])
        right = (self.predicted == self.truth)[given]
        return {
            "coverage": float(given.mean()),
            "accuracy_of_labels": float(right.mean()) if given.any() else None,
            "withheld_by_reason": dict(sorted(Counter(doubt for doubt in self.doubts if doubt).items())),
        }

    def predictions(self) -> list[dict[str, Any]]:
        """One row for each picture, the refused ones included, ready for JSON."""
        answered = [
            {
                "path": str(example.path),
                "label": example.label,
                "predicted": self.labels[best],
                "probabilities": dict(zip(self.labels, map(float, row), strict=True)),
            }
            for example, best, row in zip(self.rasters.examples, self.predicted, self.probabilities, strict=True)
        ]
        refused = [
            {"path": str(example.path), "label": example.label, "refused": str(reason)}
            for example, reason in self.rasters.refused
        ]
        return answered + refused


def score(
    bundle_path: Path, examples: Sequence[data.Example], provider: session.Provider = session.Provider.CPU
) -> Scored:
    """Run a bundle over pictures, as a worker would."""
    model = session.load(bundle_path, provider)
    decoded = data.rasters(examples)
    scores = model.score(decoded.pixels)
    doubting = model.description.abstain_below is not None
    doubts = [model.doubt(*score) for score in zip(*scores, strict=True)] if doubting else []
    return Scored(model.labels, scores.probabilities, decoded, model.description.training, doubts)


def held_out(scored: Scored, split: data.Split) -> str:
    """A caution where the network's own record does not show that it never saw the validation part of `split`."""
    if trained_on(scored.training) == {data.census(split.training)["fingerprint"]}:
        return ""
    return "; CAUTION: not the split that this network was trained by, it may have been trained on these pictures"


def evaluate(
    bundle_path: Path,
    examples: Sequence[data.Example],
    split: str,
    provider: session.Provider = session.Provider.CPU,
) -> dict[str, Any]:
    """Every figure of a bundle on labelled pictures; see `Scored.metrics`. Needs no TensorFlow."""
    return score(bundle_path, examples, provider).metrics(split)
