"""Fitting doubt: how sure a network may sound, when it keeps silent, and what is too strange for it.

Everything is fitted on pictures that the network has not learned from, each group of near-copies counting as one.
"""

from __future__ import annotations

import keras
import numpy as np

from slicewise.export.doubt import Doubt, Familiar
from slicewise.export.run import FEATURES
from slicewise.trainer import strangers
from slicewise.trainer.data import LABELS, Rasters
from slicewise.trainer.evaluation import group_weights, representatives
from slicewise.worker.imaging import colour
from slicewise.worker.model.session import tempered

MOST_WRONG = 0.02
"""Share of wrong labels among those that are given, on the pictures it is fitted on, where that can be had for `MOST_SILENT`."""

MOST_SILENT = 0.035
"""Share of slices without a label, on those pictures. Of slices from other scanners it is several times as many (12 of 53 in DICOM files
where it was 5 %), and one that keeps silent more often is of little use."""

BEARABLE = 0.1
"""Where more of the labels would then be wrong, the network keeps silent as often as `MOST_WRONG` takes."""

_TEMPERATURES = np.geomspace(0.2, 5, 401)

STRANGERS = 512
"""Pictures of nothing that are set against the known ones; not those that training draws from, which are known by now."""

_SEED = 10_000

UNVOUCHED = 0.02
"""Share of known pictures that may lie farther out than one without a header may."""

# So far do all but a few of its own kind lie, and half as far again may others of that kind: another hospital's lie farther
# out (measured), and what is a stranger only just is for the network's own confidence to doubt.
_FEW, _FURTHER = 0.005, 0.5

# Weight of the sphere in the covariance: there are hardly ten pictures for each channel (Ledoit & Wolf 2004).
_SHRINKAGE = 0.1


def fit(network: keras.Model, training: Rasters, validation: Rasters, probabilities: np.ndarray) -> Doubt:
    """Fit everything that is to be known of a network's doubt.

    Parameters
    ----------
    training
        What the network has learned from: where its features lie is taken from there.
    validation
        What it has not seen.
    probabilities
        ``(N, 4) float32``, its answers to `validation`.
    """
    truth, weights = _truth(validation), group_weights([example.group for example in validation.examples])
    temperature = fit_temperature(probabilities, truth, weights)
    calibrated = tempered(probabilities, temperature)
    correct, confidence = calibrated.argmax(axis=1) == truth, calibrated.max(axis=1)
    familiar = None
    if not isinstance(network, keras.Sequential):
        familiar, distances = _familiar(network, training, validation)
        # They have no label however sure the network is, and so they count as silence.
        confidence = np.where(distances > familiar.unvouched, 0, confidence)
    return Doubt(temperature, fit_abstention(confidence, correct, weights), familiar)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """The temperature of the least log loss (Guo et al. 2017), between 0.2 and 5.

    Parameters
    ----------
    probabilities
        ``(N, classes) float32``.
    truth
        ``(N,)`` indices of classes.
    weights
        ``(N,)`` how much each counts.
    """

    def loss(temperature: float) -> float:
        likelihood = tempered(probabilities, temperature)[np.arange(len(truth)), truth]
        return float(-(weights * np.log(np.clip(likelihood, 1e-7, None))).sum())

    return float(min(_TEMPERATURES, key=loss))


def fit_abstention(confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> float:
    """The least confidence that deserves a label: `MOST_WRONG`, `MOST_SILENT` and `BEARABLE` say how it is weighed.

    Returns
    -------
    float
        0 where every slice deserves one; above 1 where none does.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong, answered = np.cumsum((weights * ~correct)[order]), np.cumsum(weights[order])
    fine = np.flatnonzero(wrong <= MOST_WRONG * answered)
    last = int(fine[-1]) if fine.size else -1
    enough = int(np.searchsorted(answered, (1 - MOST_SILENT) * answered[-1]))
    if last < enough and wrong[enough] <= BEARABLE * answered[enough]:
        last = enough
    if last < 0:
        return float(np.nextafter(1, 2))
    return 0.0 if last == len(order) - 1 else float(confidence[order][last])


def _truth(pictures: Rasters) -> np.ndarray:
    return np.array([LABELS.index(example.label) for example in pictures.examples])


def _familiar(network: keras.Model, training: Rasters, validation: Rasters) -> tuple[Familiar, np.ndarray]:
    """Known pictures against pictures of nothing, and how far out each of `validation` lies.

    With pictures of nothing to learn from, one direction tells more of other ones than the distance from the known: of what
    imaging lets through of them it refuses three in four where the Mahalanobis distance of Lee et al. 2018 refused one in a hundred,
    and 9 of 9,526 known pictures (docs/model-card.md).
    """
    reading = keras.Model(network.input, network.get_layer(FEATURES).output)

    def features(pixels: np.ndarray) -> np.ndarray:
        answers = [reading.predict_on_batch(colour(pixels[at : at + 32])) for at in range(0, len(pixels), 32)]
        return np.concatenate(answers).astype(np.float64)

    one_of_each = representatives([example.group for example in training.examples])
    known = features(training.pixels[one_of_each])
    strange = features(strangers.draw(STRANGERS, training.pixels, _SEED))
    within = (np.cov(known, rowvar=False) + np.cov(strange, rowvar=False)) / 2
    shrunk = (1 - _SHRINKAGE) * within + _SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    direction = np.linalg.solve(shrunk, strange.mean(axis=0) - known.mean(axis=0))
    middle = direction @ (strange.mean(axis=0) + known.mean(axis=0)) / 2
    distances = features(validation.pixels) @ direction - middle
    usual = distances[representatives([example.group for example in validation.examples])]
    half, unvouched, most = np.quantile(usual, [0.5, 1 - UNVOUCHED, 1 - _FEW])
    familiar = Familiar(
        direction.astype(np.float32), float(middle), float(most + _FURTHER * (most - half)), float(unvouched)
    )
    return familiar, distances
