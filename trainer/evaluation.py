"""How good the answers are: figures from probabilities and true labels, in NumPy alone.

A bundle is evaluated through the worker's own imaging and session, so that the figures are those of serving.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slicewise.trainer import calibration, data, strangers
from slicewise.trainer.recipe import Selection
from slicewise.worker.errors import Misconfigured
from slicewise.worker.model import session

_DRAWS = 2000

STRANGERS = 400
"""Pictures of nothing that a network is tried on."""
_SEED = 20_000


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


def group_weights(groups: Sequence[str]) -> np.ndarray:
    """``(N,) float64``: near-copies together count as one picture."""
    sizes = Counter(groups)
    return np.array([1 / sizes[group] for group in groups])


def bootstrap_interval(correct: np.ndarray, groups: Sequence[str] | np.ndarray, seed: int = 0) -> tuple[float, float]:
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
    intervals = [_recall_interval(correct, truth == i, groups) for i in range(len(labels))]
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
                "recall_95": intervals[i],
                "support": int(confusion[i].sum()),
            }
            for i, label in enumerate(labels)
        },
        "labels": list(labels),
        "confusion": confusion.tolist(),
    }


def _recall_interval(correct: np.ndarray, of_class: np.ndarray, groups: Sequence[str]) -> list[float] | None:
    if not of_class.any():
        return None
    return list(bootstrap_interval(correct[of_class], np.asarray(groups)[of_class]))


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
    before = [training["begun_from"]] if training.get("begun_from") else []
    own = training.get("data", {}).get("training", {}).get("fingerprint")
    return {own}.union(*map(trained_on, [*before, *training.get("taught_by", [])]))


@dataclass(frozen=True)
class Scored:
    """Pictures with the answers of a network.

    `labels` names the columns of `probabilities`, ``(N, len(labels)) float32``; the N rows are those of `rasters`.
    `training` is what the network says of its own training; `doubts` is, for each row, why a worker would not label it, or
    None; it is empty where the network has no doubts. `seconds` is the time that the network took.
    """

    labels: tuple[str, ...]
    probabilities: np.ndarray
    rasters: data.Rasters
    training: Mapping[str, Any] = field(default_factory=dict)
    doubts: Sequence[str | None] = ()
    seconds: float = 0.0

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
            "sets": self.by_set(np.ones(len(groups), bool)),
            "doubt": self._doubt(),
            "refused": len(self.rasters.refused),
            "refused_by_reason": dict(sorted(Counter(str(reason) for _, reason in self.rasters.refused).items())),
        }

    def by_set(self, part: np.ndarray) -> dict[str, Any]:
        """Each data set, and its official parts where it has them: one may have worse labels than another.

        Of the pictures that are in `part`, ``(N,) bool``; ready for JSON.
        """
        sets = np.array([f"{e.name.partition('/')[0]} {e.official}".strip() for e in self.rasters.examples])
        right = self.predicted == self.truth
        return {str(name): _right_among(right, part & (sets == name)) for name in np.unique(sets[part])}

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


def score(model: session.Model, examples: Sequence[data.Example]) -> Scored:
    """Run a bundle over pictures, as a worker would."""
    decoded = data.rasters(examples)
    begun = time.perf_counter()
    scores = model.score(decoded.pixels)
    seconds = time.perf_counter() - begun
    doubts = []
    if model.description.abstain_below is not None:
        doubts = [
            model.doubt(*score, vouched=vouched) for *score, vouched in zip(*scores, decoded.vouched, strict=True)
        ]
    return Scored(model.labels, scores.probabilities, decoded, model.description.training, doubts, seconds)


def held_out(scored: Scored, split: data.Split) -> str:
    """A caution where the network's own record does not show that it never saw the validation part of `split`."""
    if trained_on(scored.training) == {data.census(split.training)["fingerprint"]}:
        return ""
    return "; CAUTION: not the split that this network was trained by, it may have been trained on these pictures"


def folds(trainings: Sequence[Mapping[str, Any]], selection: Selection) -> list[data.Split]:
    """For each of several networks, the fold that it held out.

    Parameters
    ----------
    trainings
        What each network says of its training.
    selection
        The pictures, split by fold; which fold it names does not matter.

    Raises
    ------
    Misconfigured
        Not split by fold; a network that held out none of the folds; two that held out the same.
    """
    if selection.how != "fold":
        raise Misconfigured("several bundles are scored each on the fold that it held out: give --split fold")
    known = [data.select(replace(selection, fold=fold)) for fold in range(data.FOLDS)]
    prints = [{data.census(split.training)["fingerprint"]} for split in known]
    found = []
    for number, training in enumerate(trainings, start=1):
        held = [split for split, seen in zip(known, prints, strict=True) if trained_on(training) == seen]
        if not held:
            raise Misconfigured(f"bundle {number} held out none of the folds of these pictures: leave it out")
        if held[0] in found:
            raise Misconfigured(f"bundle {number} held out the same fold as one before: give one for each fold")
        found.append(held[0])
    return found


def pool(parts: Sequence[Scored]) -> Scored:
    """The answers of several networks to different pictures, as those of one.

    Raises
    ------
    Misconfigured
        Their labels differ, or only some of them know doubt.
    """
    if len({(part.labels, bool(part.doubts)) for part in parts if part.rasters.examples}) > 1:
        raise Misconfigured("the bundles differ in their labels, or only some of them know doubt: pool like with like")
    return Scored(
        parts[0].labels,
        np.concatenate([part.probabilities for part in parts]),
        data.Rasters(
            np.concatenate([part.rasters.pixels for part in parts]),
            [example for part in parts for example in part.rasters.examples],
            [refused for part in parts for refused in part.rasters.refused],
            [vouched for part in parts for vouched in part.rasters.vouched],
        ),
        parts[0].training,
        [doubt for part in parts for doubt in part.doubts],
        sum(part.seconds for part in parts),
    )


def adjusted(scored: Scored) -> dict[str, Any]:
    """What is won where each class's logit is adjusted as the answers to the other folds ask for, ready for JSON.

    No fold has a say in its own adjustment, so this is what to expect of one that is fitted on all of them. Every class
    counts alike, and in it every group.
    """
    examples, truth, labels = scored.rasters.examples, scored.truth, scored.labels
    weights = group_weights([example.group for example in examples])
    weights *= (weights.sum() / np.bincount(truth, weights, len(labels)))[truth] / len(labels)
    found, fold_of = np.unique([example.fold for example in examples], return_inverse=True)
    fitted = np.stack(
        [
            calibration.logit_adjustment(scored.probabilities[others], truth[others], weights[others])
            for others in (fold_of != fold for fold in range(len(found)))
        ]
    )
    right = (scored.probabilities * np.exp(fitted[fold_of])).argmax(axis=1) == truth
    return {
        "added": dict(zip(labels, map(float, fitted.mean(axis=0)), strict=True)),
        "accuracy": float(right.mean()),
        "recall": {label: float(right[truth == i].mean()) for i, label in enumerate(labels) if (truth == i).any()},
    }


def on_strangers(model: session.Model, heads: data.Rasters) -> dict[str, Any] | None:
    """How many pictures of nothing a worker would label, ready for JSON; None where the network has no doubts."""
    if model.description.abstain_below is None:
        return None
    # Not those that training draws from.
    scores = model.score(strangers.draw(STRANGERS, heads.pixels, seed=_SEED))
    labelled = sum(model.doubt(*score) is None for score in zip(*scores, strict=True))
    return {"pictures": STRANGERS, "labelled": labelled}


def near_copies(scored: Scored, training: Sequence[data.Example]) -> dict[str, Any]:
    """How a leaky split flatters: accuracy on pictures with a near-copy in `training`, and without, ready for JSON."""
    seen = {example.group for example in training}
    leaked = np.array([example.group in seen for example in scored.rasters.examples])
    right = scored.predicted == scored.truth
    parts = {"with": leaked, "without": ~leaked}
    return {name: {**_right_among(right, part), "sets": scored.by_set(part)} for name, part in parts.items()}


def _right_among(right: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    return {"pictures": int(part.sum()), "accuracy": float(right[part].mean()) if part.any() else None}
