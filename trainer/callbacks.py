"""What happens between the epochs of a run: checkpoint, early stop, the warning about chance, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slicewise.trainer.data import LABELS

CHANCE = math.log(len(LABELS))
"""The loss of a network that knows nothing."""


class Checkpoint(keras.callbacks.Callback):
    """After each epoch, the whole state of the run; replaced in one step, so that a kill leaves the last one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        partial = self._path.with_name("partial.keras")
        self.model.save(partial)
        partial.replace(self._path)


class Reseed(keras.callbacks.Callback):
    """Makes what dropout drops depend on the seed and the epoch alone: a checkpoint does not hold its state."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        dropouts = (layer for layer in self.model.layers if isinstance(layer, keras.layers.Dropout))
        for place, layer in enumerate(dropouts):
            state = np.random.SeedSequence((self._seed, epoch, place)).generate_state(1)[0]
            layer.seed_generator.state.assign([int(state), 0])


class Patience(keras.callbacks.Callback):
    """Stops the run after `epochs` epochs without a better validation loss; 0 never stops it.

    Unlike Keras's own it takes the losses of the epochs before a resume, and then stops where an unbroken run would.
    """

    def __init__(self, epochs: int, losses: Iterable[float] = ()) -> None:
        super().__init__()
        self._epochs, self._losses = epochs, list(losses)

    @property
    def exhausted(self) -> bool:
        best = min(range(len(self._losses)), key=self._losses.__getitem__, default=0)
        return 0 < self._epochs <= len(self._losses) - 1 - best

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._losses.append((logs or {})["val_loss"])
        self.model.stop_training = self.model.stop_training or self.exhausted


class LeftChance(keras.callbacks.Callback):
    """Says so when two epochs have taught the network nothing."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == 1 and logs and not logs["loss"] < 0.97 * CHANCE:
            self._console.print(
                f"WARNING: after two epochs the loss is {logs['loss']:.3f}, still at chance (ln 4 = {CHANCE:.3f}). "
                "Lower --learning-rate (3e-4), choose --schedule cosine (it warms up), or check the labels.",
                style="bold yellow",
                soft_wrap=True,
            )


class Display(keras.callbacks.Callback):
    """A bar while an epoch runs, where there is a terminal, and one line for each finished epoch, everywhere."""

    def __init__(self, bar: Progress, epochs: int) -> None:
        super().__init__()
        self._bar, self._epochs = bar, epochs
        self._task = bar.add_task("", total=None, visible=False)
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()
        self._bar.reset(
            self._task,
            total=self.params["steps"],
            description=f"epoch {epoch + 1}/{self._epochs}",
            visible=True,
            loss="",
        )

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update(self._task, completed=batch + 1, loss=f"loss {(logs or {})['loss']:.3f}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        measured = logs or {}
        self._bar.console.print(
            f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"
            f"  loss {measured['loss']:.4f}  accuracy {measured['accuracy']:.3f}"
            f"  validation loss {measured['val_loss']:.4f}  accuracy {measured['val_accuracy']:.3f}"
            f"  {time.monotonic() - self._started:.0f} s",
            highlight=False,
            soft_wrap=True,
        )


def progress_bar(console: Console) -> Progress:
    """The bar that `Display` moves; nothing at all where the console is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
