"""Fitting doubt: how sure a network may sound, when it keeps silent, and what is too strange for it.

Everything is fitted on pictures that the network has not learned from, each group of near-copies counting as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import keras
import numpy as np

from slicewise.export.doubt import Doubt, Familiar
from slicewise.export.run import FEATURES
from slicewise.trainer.data import LABELS, Rasters
from slicewise.trainer.evaluation import representatives
from slicewise.trainer.feed import Feed
from slicewise.worker.model.session import tempered

MOST_WRONG = 0.02
"""Share of wrong labels among those that are given, on the pictures it is fitted on."""

_TEMPERATURES = np.geomspace(0.2, 5, 401)

# So many of its own kind are taken for strangers.
_STRANGERS = 0.005

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
    truth, weights = _truth(validation), _weights([example.group for example in validation.examples])
    temperature = fit_temperature(probabilities, truth, weights)
    calibrated = tempered(probabilities, temperature)
    correct = calibrated.argmax(axis=1) == truth
    return Doubt(
        temperature,
        fit_abstention(calibrated.max(axis=1), correct, weights),
        None if isinstance(network, keras.Sequential) else _familiar(network, training, validation),
    )


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


def fit_abstention(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray, most_wrong: float = MOST_WRONG
) -> float:
    """The least confidence that deserves a label, so that of all labels given a small share is wrong.

    Returns
    -------
    float
        0 where that holds for all; above 1 where it holds for none.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong, answered = np.cumsum((weights * ~correct)[order]), np.cumsum(weights[order])
    fine = np.flatnonzero(wrong <= most_wrong * answered)
    if not fine.size:
        return float(np.nextafter(1, 2))
    return 0.0 if fine[-1] == len(order) - 1 else float(confidence[order][fine[-1]])


def _truth(pictures: Rasters) -> np.ndarray:
    return np.array([LABELS.index(example.label) for example in pictures.examples])


def _weights(groups: Sequence[str]) -> np.ndarray:
    """Near-copies together count as one picture."""
    sizes = Counter(groups)
    return np.array([1 / sizes[group] for group in groups])


def _familiar(network: keras.Model, training: Rasters, validation: Rasters) -> Familiar:
    reading = keras.Model(network.input, network.get_layer(FEATURES).output)

    def features(pictures: Rasters) -> tuple[np.ndarray, np.ndarray]:
        chosen = representatives([example.group for example in pictures.examples])
        examples = [pictures.examples[i] for i in chosen]
        feed = Feed(pictures.pixels[chosen], examples, batch=32)
        return reading.predict(feed, verbose=0).astype(np.float64), _truth(pictures)[chosen]

    known, truth = features(training)
    means = np.stack([known[truth == label].mean(axis=0) for label in range(len(LABELS))])
    within = np.cov(known - means[truth], rowvar=False)
    shrunk = (1 - _SHRINKAGE) * within + _SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk)).astype(np.float32)
    unlimited = Familiar(whitening, (means @ whitening).astype(np.float32), np.inf)
    limit = np.quantile(unlimited.distances(features(validation)[0].astype(np.float32)), 1 - _STRANGERS)
    return Familiar(unlimited.whitening, unlimited.centres, float(limit))
