"""What a run is made of: the pictures, how they are parted, and the recipe. Plain values, quick to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slicewise.worker.errors import Misconfigured

SPLITS = ("random", "group", "fold", "official")
SCHEDULES = ("constant", "cosine")
NETWORKS = ("reference", "residual", "hybrid")
PRECISIONS = ("float32", "bfloat16")

_MOST_ADJUSTED = 4.0


@dataclass(frozen=True)
class Selection:
    """Which pictures, and how they are parted into training and validation; see `slicewise.trainer.data.split`."""

    roots: tuple[str, ...]
    groups: str | None = None
    how: str = "random"
    fraction: float = 0.1
    fold: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may stray from its source. Zero switches a part off.

    `rotation` in degrees, `scale` and `shift` as shares of the side, `flip` horizontally with probability
    one half, `gain` and `gamma` as spreads of log2: brightness and contrast leak the class in the public sets. `bias` is
    the same for a brightness that drifts across the picture, as a coil's does; `coarse` the largest share of the
    resolution that is lost; `noise` the largest standard deviation added, in grey levels of 255; `jpeg` the largest share of
    JPEG's quality that is lost.
    """

    rotation: float = 10.0
    scale: float = 0.1
    shift: float = 0.04
    flip: bool = True
    gain: float = 0.3
    gamma: float = 0.3
    bias: float = 0.0
    coarse: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the published ones.

    Raises
    ------
    Misconfigured
        A value out of its range.
    """

    network: str = "reference"
    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    """``constant`` or ``cosine`` (one epoch of warm-up, then down to zero)."""
    weight_decay: float = 0.0
    """Of AdamW, for kernels only; 0 is Adam."""
    dropout: float = 0.3
    mixup: float = 0.0
    """Alpha of the Beta distribution by which two pictures and their labels are mixed (Zhang et al. 2018); 0 is off."""
    cutmix: float = 0.0
    """The same for a box of one picture put over another (Yun et al. 2019), a label counting by its share of the head; 0 is off.
    Where mixup is on too, each is done to half of the batches."""
    label_smoothing: float = 0.0
    strangers: float = 0.0
    """Share of a batch that gives way to pictures of nothing, whose label is every class alike; 0 is off."""
    teaching: float = 0.0
    """Share of the label that is what a teacher says of the very picture that is shown (Beyer et al. 2022); 0 is off."""
    averaging: float = 0.0
    """Momentum of the running average of the weights that validates and is kept; 0 switches it off."""
    precision: str = "float32"
    """What is multiplied in training: with ``bfloat16`` sums, averages and what is kept are float32 still."""
    logit_adjustment: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """What is added to each class's logit when the network is trained (Menon et al. 2021): a class that it misses gets more than 0."""
    size: int = 150
    one_per_group: bool = False
    patience: int = 0
    """Stop after this many epochs without a better validation loss; 0 never stops early."""
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, known in (("network", NETWORKS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise Misconfigured(f"no {name} is called {getattr(self, name)}: {' or '.join(known)}")
        if not self.learning_rate > 0:
            raise Misconfigured(f"the learning rate is {self.learning_rate:g}: give one above 0")
        # Below 94 the last pooling of the reference network has nothing left.
        for name, least in (("epochs", 1), ("batch", 1), ("size", 94), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise Misconfigured(f"{name} is {getattr(self, name)}: give at least {least}")
        shares = ("weight_decay", "mixup", "cutmix", "dropout", "label_smoothing", "strangers", "teaching", "averaging")
        for name in shares:
            if not 0 <= getattr(self, name) < 1:
                raise Misconfigured(f"{name} is {getattr(self, name):g}: give a value from 0 to below 1")
        if not all(abs(added) <= _MOST_ADJUSTED for added in self.logit_adjustment):
            raise Misconfigured(
                f"a logit adjustment of {', '.join(f'{added:g}' for added in self.logit_adjustment)} drowns what the network "
                f"says: give values from -{_MOST_ADJUSTED:g} to {_MOST_ADJUSTED:g}"
            )

    @classmethod
    def from_dict(cls, recorded: dict[str, Any]) -> Recipe:
        """The recipe that ``run.json`` holds."""
        # JSON knows no tuples.
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()
        }
        return cls(**{**values, "augmentation": Augmentation(**recorded["augmentation"])})
