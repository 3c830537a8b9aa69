"""The recipe's defaults are the published ones, and a value out of range is refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from slicewise.trainer.recipe import Augmentation, Recipe
from slicewise.worker.errors import Misconfigured


def test_published_defaults():
    recipe = Recipe()
    assert (recipe.epochs, recipe.batch, recipe.learning_rate, recipe.size) == (20, 32, 1e-3, 150)
    assert (recipe.network, recipe.mixup, recipe.weight_decay) == ("reference", 0, 0)
    assert recipe.augmentation.rotation
    assert recipe.augmentation.scale
    assert recipe.augmentation.flip


def test_round_trip():
    recipe = Recipe(epochs=3, logit_adjustment=(0, 0.5, 0, -0.5), augmentation=Augmentation(gain=0.1))
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "linear"},
        {"network": "resnet"},
        {"weight_decay": -0.1},
        {"mixup": 1.0},
        {"cutmix": 1.0},
        {"dropout": 1.0},
        {"teaching": 1.0},
        {"averaging": -0.1},
        {"label_smoothing": float("nan")},
        {"size": 93},
        {"patience": -1},
        {"precision": "float16"},
        {"logit_adjustment": (0.0, 4.5, 0.0, 0.0)},
        {"logit_adjustment": (0.0, 0.0, 0.0, float("nan"))},
    ],
)
def test_out_of_range(wrong):
    with pytest.raises(Misconfigured):
        Recipe(**wrong)
