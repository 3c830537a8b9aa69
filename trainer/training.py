"""Training runs: the loop, its checkpoints and its history. Everything a run leaves lies in one folder."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from slicewise.export.describe import provenance
from slicewise.export.run import Run, make_folder, write_json
from slicewise.trainer import callbacks, data, doubt, strangers
from slicewise.trainer.evaluation import representatives
from slicewise.trainer.feed import Feed
from slicewise.trainer.network import adjust, build, serving, transfer
from slicewise.trainer.recipe import Recipe
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import PREPROCESS_VERSION, SIZE
from slicewise.worker.model import bundle, session

_STRANGERS = 1024
"""Pictures of nothing that a run draws from."""

_EPOCH_MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Trained:
    """A finished run: the network, and the validation pictures with its answers, ``(N, 4) float32``."""

    network: keras.Model
    validation: data.Rasters
    probabilities: np.ndarray


def train(
    split: data.Split,
    recipe: Recipe,
    folder: Path,
    *,
    initial: Path | None = None,
    teachers: Sequence[Path] = (),
    resume: bool = False,
) -> Trained:
    """Train a network and leave everything about it in `folder` (see `slicewise.export.run.Run`).

    Parameters
    ----------
    initial
        A ``model.keras`` to start from, at any input size (see `slicewise.trainer.network.transfer`).
    teachers
        Bundles whose answers are a share `Recipe.teaching` of the labels (distillation, Hinton et al. 2015).
    resume
        Go on from the folder's last checkpoint: same epoch, learning rate, optimiser state and shuffling.

    Raises
    ------
    Misconfigured
        The folder holds a run and `resume` is not set; it was trained on other pictures or by another
        preprocessing; nothing is left to train on or to validate; a teacher of another kind, or one for nothing.
    """
    run = Run(folder)
    if run.checkpoint.exists() and not resume:
        raise Misconfigured(f"{folder} holds a run already: give --resume to go on, or another folder")
    if initial and not initial.is_file():
        raise Misconfigured(f"no network at {initial}: give --initial the model.keras of a run")
    taught_by = _teachers(teachers, recipe)
    make_folder(folder)
    keras.utils.set_random_seed(recipe.seed)
    training = _decoded(split.training, "training")
    validation = _decoded(split.validation, "validation")
    _record(run, _description(split, recipe, validation, initial, taught_by), resume=resume)
    feed = Feed(
        training.pixels,
        training.examples,
        recipe.batch,
        size=recipe.size,
        augmentation=recipe.augmentation,
        one_per_group=recipe.one_per_group,
        shuffle=True,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        strangers=strangers.draw(_STRANGERS, training.pixels, recipe.seed) if recipe.strangers else None,
        share=recipe.strangers,
        teachers=taught_by,
        teaching=recipe.teaching,
        seed=recipe.seed,
    )
    held = Feed(validation.pixels, validation.examples, recipe.batch, size=recipe.size)
    if run.checkpoint.exists():
        network = keras.models.load_model(run.checkpoint)
    else:
        network = _fresh(recipe, len(feed), initial)
    _fit(network, feed, _watched(held) if recipe.one_per_group else held, recipe, run)
    network = serving(network)
    adjust(network, recipe.logit_adjustment)
    network.save(run.model, include_optimizer=False)
    probabilities = network.predict(held, verbose=0)
    if recipe.size == SIZE:
        fitted = doubt.fit(network, training, validation, probabilities)
        fitted.save(run.doubt)
        # As it will serve.
        probabilities = session.tempered(probabilities, fitted.temperature)
    return Trained(network, validation, probabilities)


def _watched(held: Feed) -> Feed:
    """What is validated after each epoch where near-copies together count as one: one of each group."""
    chosen = representatives([example.group for example in held.examples])
    return Feed(held.pixels[chosen], [held.examples[i] for i in chosen], held.batch, size=held.size)


def _decoded(examples: list[data.Example], part: str) -> data.Rasters:
    decoded = data.rasters(examples, f"reading the {part} pictures")
    if not decoded.examples:
        raise Misconfigured(f"imaging refuses every one of the {len(examples)} {part} pictures: are they head slices?")
    return decoded


def _teachers(paths: Sequence[Path], recipe: Recipe) -> list[session.Model]:
    if bool(paths) != (recipe.teaching > 0):
        raise Misconfigured("teachers and their share go together: give --teacher and --teaching, or neither")
    if paths and recipe.size != SIZE:
        raise Misconfigured(f"teachers see {SIZE}x{SIZE} pictures: give --size {SIZE}, or begin without them")
    teachers = [session.load(path) for path in paths]
    for path, teacher in zip(paths, teachers, strict=True):
        if (teacher.labels, teacher.description.preprocess_version) != (data.LABELS, PREPROCESS_VERSION):
            raise Misconfigured(f"{path} cannot teach: it has other labels, or sees pictures by another preprocessing")
    return teachers


def _description(
    split: data.Split,
    recipe: Recipe,
    validation: data.Rasters,
    initial: Path | None,
    teachers: Sequence[session.Model],
) -> dict[str, Any]:
    """What ``run.json`` says."""
    return {
        "recipe": asdict(recipe),
        "split": split.description,
        "leaky": split.leaky,
        "selection": asdict(split.selection) if split.selection else None,
        "labels": list(data.LABELS),
        "preprocess_version": PREPROCESS_VERSION,
        "begun_from": _seen_by(initial) if initial else None,
        "taught_by": [{"sha256": teacher.sha256, **teacher.description.training} for teacher in teachers],
        # With what imaging refuses: `evaluate` compares the fingerprint without decoding anything.
        "data": {"training": data.census(split.training), "validation": data.census(split.validation)},
        "validation": sorted({str(e.path.resolve()) for e in validation.examples}),
    }


def _seen_by(model: Path) -> dict[str, Any]:
    """What the network that a run starts from has itself seen, where that is known."""
    run = Run(model.parent)
    return {"sha256": bundle.sha256(model), **(provenance(run.read()) if run.record.exists() else {})}


def _record(run: Run, description: dict[str, Any], *, resume: bool) -> None:
    if resume and run.record.exists():
        recorded = run.read()
        for key in ("labels", "preprocess_version", "data", "taught_by"):
            if recorded.get(key, description[key]) != description[key]:
                raise Misconfigured(
                    f"{run.folder} cannot go on: its {key.replace('_', ' ')} would change. Give the pictures, the "
                    "split and the teachers it was begun with, or another folder"
                )
        description = {**description, **recorded, "validation": description["validation"]}
    write_json(run.record, description)


def _fresh(recipe: Recipe, steps: int, initial: Path | None) -> keras.Model:
    network = build(recipe.network, recipe.size, recipe.dropout, recipe.precision)
    if initial:
        transfer(keras.models.load_model(initial, compile=False), network)
    rate: float | keras.optimizers.schedules.LearningRateSchedule = recipe.learning_rate
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate / 25,
            decay_steps=steps * max(1, recipe.epochs - 1),
            warmup_target=recipe.learning_rate,
            warmup_steps=steps,
        )
    optimiser = keras.optimizers.AdamW(
        rate,
        weight_decay=recipe.weight_decay,
        use_ema=recipe.averaging > 0,
        ema_momentum=recipe.averaging or 0.99,
        ema_overwrite_frequency=None,
    )
    optimiser.exclude_from_weight_decay([weight for weight in network.trainable_weights if len(weight.shape) < 2])
    network.compile(
        optimiser,
        keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
        # On processors oneDNN's kernels are up to 2.6 times as fast as what XLA makes (docs/experiments.md).
        jit_compile="auto" if keras.distribution.list_devices("gpu") else False,
    )
    return network


def _fit(network: keras.Model, feed: Feed, held: Feed, recipe: Recipe, run: Run) -> None:
    # The checkpoint alone says how far the run is: a second file beside it could disagree after a kill.
    done = int(network.optimizer.iterations) // len(feed)
    feed.begin(done)
    seen = _keep_epochs(run.history, done)
    patience = callbacks.Patience(recipe.patience, (epoch["val_loss"] for epoch in seen))
    console = Console(stderr=True)
    console.print(
        f"{len(feed.examples)} pictures to train on, {len(held.examples)} to validate; {len(feed)} steps an epoch",
        highlight=False,
    )
    if done < recipe.epochs and not patience.exhausted:
        with callbacks.progress_bar(console) as bar:
            between: list[keras.callbacks.Callback] = [
                keras.callbacks.CSVLogger(str(run.history), append=done > 0),
                callbacks.Reseed(recipe.seed),
                callbacks.Display(bar, recipe.epochs),
                callbacks.LeftChance(console),
                callbacks.Checkpoint(run.checkpoint),
                patience,
            ]
            if recipe.averaging:
                # First in the list: it puts the average in place before anything else looks at the weights.
                between.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=False))
            network.fit(
                feed,
                validation_data=held,
                epochs=recipe.epochs,
                initial_epoch=done,
                shuffle=False,
                callbacks=between,
                verbose=0,
            )
    if recipe.averaging:
        network.optimizer.finalize_variable_values(network.trainable_variables)


def _keep_epochs(path: Path, done: int) -> list[dict[str, float]]:
    """Cut ``history.csv`` to the epochs that the checkpoint holds: a kill may have come between the two."""
    if not done or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: done + 1]
    path.write_text("".join(lines), encoding="utf-8")
    return read_history(path)


def read_history(path: Path) -> list[dict[str, float]]:
    """The epochs of ``history.csv``, in order: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [{name: float(row[name]) for name in _EPOCH_MEASURES} for row in csv.DictReader(handle)]
