"""Training runs: the loop, its checkpoints and its history. Everything a run leaves lies in one folder."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np

from slicewise.trainer import data
from slicewise.trainer.network import LABELS, reference, transfer
from slicewise.worker.errors import Misconfigured


@dataclass(frozen=True)
class Recipe:
    """What a run is made of. The defaults are the published ones."""

    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    """``constant`` or ``cosine`` (one epoch of warm-up, then down to zero)."""
    dropout: float = 0.3
    label_smoothing: float = 0.0
    averaging: float = 0.0
    """Momentum of the running average of the weights that validates and is kept; 0 switches it off."""
    size: int = 150
    one_per_group: bool = False
    patience: int = 0
    """Stop after this many epochs without a better validation loss; 0 never stops early."""
    seed: int = 0
    augmentation: data.Augmentation = field(default_factory=data.Augmentation)


def train(
    split: data.Split, recipe: Recipe, run: Path, *, initial: Path | None = None, resume: bool = False
) -> keras.Sequential:
    """Train the reference network and leave everything about it in the folder `run`.

    Parameters
    ----------
    initial
        A ``model.keras`` to start from, at any input size (see `slicewise.trainer.network.transfer`).
    resume
        Go on from the folder's last checkpoint: same epoch, learning rate, optimiser state and shuffling.

    Returns
    -------
    keras.Sequential
        The trained network; also written to ``run/model.keras``.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoint, state = run / "checkpoint.keras", run / "state.json"
    if checkpoint.exists() and not resume:
        raise Misconfigured(f"{run} holds a run already: give --resume to go on, or another folder")
    keras.utils.set_random_seed(recipe.seed)
    training_pixels, training = data.rasters(split.training, "reading the training pictures")
    validation_pixels, validation = data.rasters(split.validation, "reading the validation pictures")
    first_epoch = json.loads(state.read_text())["epochs_done"] if resume and state.exists() else 0
    feed = data.Feed(
        training_pixels,
        training,
        recipe.batch,
        size=recipe.size,
        augmentation=recipe.augmentation,
        one_per_group=recipe.one_per_group,
        shuffle=True,
        seed=recipe.seed,
        epoch=first_epoch,
    )
    held = data.Feed(validation_pixels, validation, recipe.batch, size=recipe.size)
    if first_epoch:
        network = keras.models.load_model(checkpoint)
    else:
        network = reference(recipe.size, recipe.dropout)
        if initial:
            transfer(keras.models.load_model(initial, compile=False), network)
        _compile(network, recipe, len(feed))
        write_json(
            run / "run.json",
            {
                "recipe": asdict(recipe),
                "split": split.description,
                "leaky": split.leaky,
                "labels": LABELS,
                "initial": str(initial) if initial else None,
                "training": len(training),
                "validation": [e.path.as_posix() for e in validation],
            },
        )
    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.CSVLogger(str(run / "history.csv"), append=first_epoch > 0),
        _LeftChance(),
        _Checkpoint(checkpoint, state),
    ]
    if recipe.averaging:
        # First in the list: it puts the average in place before anything else looks at the weights.
        callbacks.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=False))
    if recipe.patience:
        callbacks.append(keras.callbacks.EarlyStopping(patience=recipe.patience, verbose=1))
    network.fit(
        feed, validation_data=held, epochs=recipe.epochs, initial_epoch=first_epoch, callbacks=callbacks, verbose=2
    )
    if recipe.averaging:
        network.optimizer.finalize_variable_values(network.trainable_variables)
    network.save(run / "model.keras", include_optimizer=False)
    return network


def _compile(network: keras.Sequential, recipe: Recipe, steps: int) -> None:
    rate: float | keras.optimizers.schedules.LearningRateSchedule = recipe.learning_rate
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate / 25,
            decay_steps=steps * max(1, recipe.epochs - 1),
            warmup_target=recipe.learning_rate,
            warmup_steps=steps,
        )
    elif recipe.schedule != "constant":
        raise Misconfigured(f"no schedule is called {recipe.schedule}: constant or cosine")
    network.compile(
        keras.optimizers.Adam(
            rate, use_ema=recipe.averaging > 0, ema_momentum=recipe.averaging or 0.99, ema_overwrite_frequency=None
        ),
        keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
    )


class _Checkpoint(keras.callbacks.Callback):
    """After each epoch, the whole state of the run; replaced in one step, so that a kill leaves the last one."""

    def __init__(self, checkpoint: Path, state: Path) -> None:
        super().__init__()
        self._checkpoint, self._state = checkpoint, state

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        partial = self._checkpoint.with_name("partial.keras")
        self.model.save(partial)
        os.replace(partial, self._checkpoint)
        write_json(self._state, {"epochs_done": epoch + 1})


class _LeftChance(keras.callbacks.Callback):
    """Says so when two epochs have taught the network nothing."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        chance = math.log(len(LABELS))
        if epoch == 1 and logs and logs["loss"] > 0.97 * chance:
            print(
                f"WARNING: after two epochs the loss is {logs['loss']:.3f}, still at chance (ln 4 = {chance:.3f}). "
                "Lower --learning-rate (3e-4), choose --schedule cosine (it warms up), or check the labels."
            )


def write_json(path: Path, value: object) -> None:
    """Write readable JSON in one step: never half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, default=_plain) + "\n")
    os.replace(partial, path)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
