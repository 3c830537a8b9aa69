"""The model bundle: one ``.onnx`` file that describes itself.

The description is JSON in the file's metadata under `METADATA_KEY`. It is the only label list and the only
statement of what the network expects; a worker that does not speak it refuses the file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import PREPROCESS_VERSIONS, SIZE
from slicewise.worker.model.store import SHIPPED

METADATA_KEY = "slicewise.bundle"
CONTRACT = 1
PROBABILITIES, DISTANCES, EVIDENCE = "probabilities", "distances", "evidence"
"""A bundle's outputs, of which only the first must be there: ``(N, labels)``; ``(N,)``, how far the features of a slice
lie from those of the nearest class; ``(N, h, w, labels)``, what each place of the last feature map says for each class:
their mean, through a softmax, is the answer."""
DEFAULT = SHIPPED[0]
"""The bundle that serves where none was chosen."""


@dataclass(frozen=True)
class Description:
    """What a bundle says of itself.

    Parameters
    ----------
    name
        The architecture, ``reference`` for the published network.
    labels
        Class names in the order of the outputs.
    preprocess_version
        The code path of `slicewise.worker.imaging` it was trained on.
    input_size
        Side of the square input in pixels. The input is ``(N, size, size, 3) float32`` in [0, 255].
    training
        Data, fingerprint, split, recipe: what the network has seen.
    metrics
        Figures measured, each with the split it was measured on.
    temperature
        What the logits are divided by before the softmax (Guo et al. 2017), above 0; None for a network that has not been
        calibrated.
    abstain_below
        A slice whose largest probability, by that temperature, is below has no label; None where it always has one.
    unfamiliar_above
        A slice whose distance is above is refused, or has no label where a header says that it is a slice by MR; None where there are
        no distances.
    unvouched_above
        A slice whose distance is above has no label where no header says that it is one by MR; None where there are no distances.
    variant
        ``int8``, or None for the network as it was exported.
    golden
        ``slices``, a fingerprint of the sample study's slices, and ``probabilities``, what was said of them when the bundle
        was made; None where that was not written down.
    made_from
        SHA-256 of the bundle that a variant was made from.
    """

    name: str
    labels: tuple[str, ...]
    preprocess_version: str
    input_size: int = SIZE
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    abstain_below: float | None = None
    unfamiliar_above: float | None = None
    unvouched_above: float | None = None
    variant: str | None = None
    made_from: str | None = None
    golden: dict[str, Any] | None = None
    contract: int = CONTRACT

    def to_json(self) -> str:
        """The text that stands in the file's metadata."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], path: Path) -> Description:
        """Read and check a bundle's metadata.

        Raises
        ------
        Misconfigured
            No description, another contract, or an input this worker cannot prepare.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise Misconfigured(
                f"{path} is no slicewise bundle (no {METADATA_KEY} in it): make one with 'slicewise export'"
            )
        try:
            described = json.loads(text)
            described["labels"] = tuple(described["labels"])
            contract = described["contract"]
            if contract != CONTRACT:
                raise Misconfigured(
                    f"{path} speaks contract {contract}, this worker speaks {CONTRACT}: upgrade one of them"
                )
            bundle = cls(**described)
        except (ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"{path} has a damaged description ({error}): export it again") from error
        if bundle.preprocess_version not in PREPROCESS_VERSIONS:
            raise Misconfigured(
                f"{path} was trained on preprocessing {bundle.preprocess_version!r}; this worker has "
                f"{', '.join(sorted(PREPROCESS_VERSIONS))}: use the slicewise it was exported with, or train again"
            )
        if bundle.input_size != SIZE:
            raise Misconfigured(
                f"{path} takes {bundle.input_size}x{bundle.input_size} pictures, this worker makes {SIZE}x{SIZE}"
            )
        return bundle


def sha256(path: Path) -> str:
    """Hex SHA-256 of a bundle file: the model's identity in every result."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
