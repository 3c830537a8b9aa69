"""Running a bundle on the execution provider that was asked for, and on no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from slicewise.db.reasons import AbstentionReason, RefusalReason
from slicewise.worker.errors import Misconfigured
from slicewise.worker.imaging import colour
from slicewise.worker.model import bundle

BATCH = 32
"""Slices per call. Larger batches gain nothing on a CPU (measured) and cost memory."""


class Provider(StrEnum):
    """Execution providers, by the name a person types."""

    CPU = "cpu"
    CUDA = "cuda"


_NAMES = {Provider.CPU: "CPUExecutionProvider", Provider.CUDA: "CUDAExecutionProvider"}


class Scores(NamedTuple):
    """What a network says of N slices.

    `probabilities` is ``(N, labels) float32``, each row sums to 1; `distances` ``(N,) float32``, how far each lies from what is
    known, the greater the farther, or NaN where the bundle knows none.
    """

    probabilities: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Model:
    """A loaded bundle. Build it with `load`, in the process that uses it (never before a fork)."""

    description: bundle.Description
    sha256: str
    provider: Provider
    _session: onnxruntime.InferenceSession

    @property
    def labels(self) -> tuple[str, ...]:
        return self.description.labels

    def score(self, rasters: np.ndarray) -> Scores:
        """Score slices.

        Parameters
        ----------
        rasters : numpy.ndarray
            ``(N, 150, 150) uint8`` in [0, 255], from `slicewise.worker.imaging.to_raster`.

        Returns
        -------
        Scores
            By the bundle's own temperature. A row depends on its slice alone, not on its neighbours nor on how many they
            are.
        """
        batches = [self._batch(rasters[start : start + BATCH]) for start in range(0, len(rasters), BATCH)]
        if not batches:
            return Scores(np.empty((0, len(self.labels)), np.float32), np.empty(0, np.float32))
        probabilities, distances = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return Scores(tempered(probabilities, self.description.temperature), distances)

    def doubt(
        self, probabilities: np.ndarray, distance: float, *, vouched: bool = False
    ) -> RefusalReason | AbstentionReason | None:
        """Why a slice is not to be labelled, from its `Scores`; None where it is.

        Parameters
        ----------
        vouched
            Whether its header says that it is a slice by MR: then it is never refused, and may be stranger. A picture without one may
            be anything.
        """
        described = self.description
        limit, bound, least = described.unfamiliar_above, described.unvouched_above, described.abstain_below
        # Not a number is no reason to trust it.
        if limit is not None and not distance <= limit:
            return AbstentionReason.STRANGE if vouched else RefusalReason.UNFAMILIAR
        if bound is not None and not vouched and not distance <= bound:
            return AbstentionReason.STRANGE
        if least is not None and not probabilities.max() >= least:
            return AbstentionReason.UNCERTAIN
        return None

    @property
    def explains(self) -> bool:
        """Whether the bundle says what each place of a slice speaks for."""
        return any(output.name == bundle.EVIDENCE for output in self._session.get_outputs())

    def evidence(self, rasters: np.ndarray) -> np.ndarray:
        """What each place of a few slices says for each label; only where the bundle `explains`.

        Parameters
        ----------
        rasters : numpy.ndarray
            ``(N, 150, 150) uint8``, as for `score`.

        Returns
        -------
        numpy.ndarray
            ``(N, h, w, labels) float32``. The mean over the places gives the logits: through a softmax, the
            probabilities at temperature 1.
        """
        (said,) = self._run([bundle.EVIDENCE], rasters)
        return said

    def _batch(self, rasters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.description.unfamiliar_above is None:
            (probabilities,) = self._run([bundle.PROBABILITIES], rasters)
            return probabilities, np.full(len(rasters), np.nan, np.float32)
        probabilities, distances = self._run([bundle.PROBABILITIES, bundle.DISTANCES], rasters)
        return probabilities, distances

    def _run(self, wanted: list[str], rasters: np.ndarray) -> list[np.ndarray]:
        count = len(rasters)
        grey = np.zeros((_padded(count), *rasters.shape[1:]), np.float32)
        grey[:count] = rasters
        given = {self._session.get_inputs()[0].name: colour(grey)}
        return [np.asarray(answer)[:count] for answer in self._session.run(wanted, given)]


def tempered(probabilities: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probabilities ``(N, labels)`` by a temperature: those of the logits divided by it (Guo et al. 2017)."""
    if temperature is None:
        return probabilities
    powers = probabilities ** np.float32(1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _padded(count: int) -> int:
    """At least 2: a batch of one takes another matrix kernel, whose rounding differs."""
    return max(2, count)


def load(path: Path, provider: Provider = Provider.CPU, threads: int = 0) -> Model:
    """Load and check a bundle.

    Parameters
    ----------
    threads
        Threads inside one call; 0 takes the processors this process may use.

    Raises
    ------
    Misconfigured
        No such file, no bundle, or the provider asked for is not the one that would run: onnxruntime falls
        back to the CPU without a word.
    """
    if not path.is_file():
        raise Misconfigured(f"no model at {path}: give SLICEWISE_MODEL a bundle made by 'slicewise export'")
    available = onnxruntime.get_available_providers()
    if _NAMES[provider] not in available:
        raise Misconfigured(
            f"{provider} was asked for but this onnxruntime has {', '.join(available)}: "
            f"install slicewise[gpu] instead of slicewise[cpu], or set SLICEWISE_PROVIDER=cpu"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    if provider is Provider.CUDA:
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_order(provider))
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise Misconfigured(
            f"{path} cannot be loaded ({type(error).__name__}): it is damaged, export it again"
        ) from error
    if session.get_providers()[0] != _NAMES[provider]:
        raise Misconfigured(
            f"{provider} was asked for but {session.get_providers()[0]} would run: check the NVIDIA driver and the CUDA "
            "libraries ('slicewise doctor'), or set SLICEWISE_PROVIDER=cpu"
        )
    description = bundle.Description.from_metadata(session.get_modelmeta().custom_metadata_map, path)
    return Model(description, bundle.sha256(path), provider, session)


_PROBE = """
import sys
from pathlib import Path
from slicewise.worker.errors import Misconfigured
from slicewise.worker.model import session
try:
    session.load(Path(sys.argv[1]), session.Provider(sys.argv[2]))
except Misconfigured as error:
    sys.exit(str(error))
"""


def probe(path: Path, provider: Provider) -> None:
    """See that a bundle loads on a provider, before anything is started that would wait for its answers.

    CUDA does not survive a fork, so it is tried in a process of its own.

    Raises
    ------
    Misconfigured
        As `load` does.
    """
    if provider is Provider.CPU:
        load(path, provider, threads=1)
        return
    tried = subprocess.run(
        [sys.executable, "-c", _PROBE, str(path), provider.value], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or [f"{provider} cannot be used: it ended with {tried.returncode}"]
        raise Misconfigured(said[-1])


def _order(provider: Provider) -> Sequence[str]:
    # CUDA keeps the CPU behind it for the few operators it lacks; that is not a fall-back of the network.
    return [_NAMES[provider]] if provider is Provider.CPU else [_NAMES[provider], _NAMES[Provider.CPU]]
