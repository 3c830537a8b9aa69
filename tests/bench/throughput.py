"""Slices per second of the whole pipeline beside the bare network and beside what the paper's notebook does.

``make bench`` runs it. All are measured in turn, several rounds, in one process tree; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from slicewise.db import questions
from slicewise.db.engine import Database
from slicewise.db.records import Lane
from slicewise.worker import progress, sample, service
from slicewise.worker.model import session
from slicewise.worker.pipeline import prepare
from slicewise.worker.settings import Settings


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=384)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--provider", default="cpu")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="sw") as scratch:
        report(measure(Path(scratch), chosen.files, chosen.rounds, chosen.provider), chosen)


def measure(scratch: Path, count: int, rounds: int, provider: str) -> dict[str, list[float]]:
    settings = Settings.from_environment({"SLICEWISE_HOME": str(scratch / "h"), "SLICEWISE_PROVIDER": provider})
    model = session.load(settings.serving, session.Provider(provider))
    rates: dict[str, list[float]] = {}
    with _running(settings) as submit:
        for number in range(rounds):
            folder = make_scans(scratch / f"round{number}", count, seed=number)
            rasters = np.stack([r for path in sorted(folder.iterdir()) for r in prepare(path).frames])
            contenders: dict[str, tuple[Callable[[], object], int]] = {
                "slicewise run (service up)": (lambda folder=folder: submit(folder), count),
                "bare ONNX Runtime, batch 32": (lambda rasters=rasters: model.score(rasters), count),
                "keras predict, one image a call": (keras_predict(rasters[: count // 8]), count // 8),
            }
            for name, (work, slices) in contenders.items():
                started = time.perf_counter()
                work()
                rates.setdefault(name, []).append(slices / (time.perf_counter() - started))
    folder = make_scans(scratch / "command", count, seed=rounds)
    command = [
        sys.executable,
        "-m",
        "slicewise.worker.cli",
        "run",
        str(folder),
        "--format",
        "csv",
        "--output",
        os.devnull,
    ]
    started = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "SLICEWISE_HOME": str(scratch / "h"), "SLICEWISE_PROVIDER": provider},
    )
    rates["slicewise run (whole command, from nothing)"] = [count / (time.perf_counter() - started)]
    return rates


@contextlib.contextmanager
def _running(settings: Settings) -> Iterator[Callable[[Path], None]]:
    """A service that is up and has loaded its model; hands out a function that scores a folder."""
    os.environ["SLICEWISE_HOME"] = str(settings.home)
    with service.Service(settings), contextlib.redirect_stderr(Path(os.devnull).open("w")):
        database = Database(settings.database_url)
        loaded = session.load(settings.serving, threads=1)
        asked = questions.Model(loaded.sha256, loaded.description.preprocess_version)

        def submit(folder: Path) -> None:
            submission = progress.submit(settings, database, [folder], "bench", Lane.ROUTINE)
            progress.wait(database, submission, asked, lambda: None)

        submit(sample.STUDY)
        yield submit


def keras_predict(rasters: np.ndarray) -> Callable[[], None]:
    """The reference network as a notebook runs it: one ``model.predict`` for each picture."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from slicewise.trainer.network import reference

    network = reference()
    colour = np.repeat(rasters[..., None], 3, axis=-1).astype(np.float32)
    network.predict(colour[:1], verbose=0)

    def work() -> None:
        for picture in colour:
            network.predict(picture[None], verbose=0)

    return work


def make_scans(folder: Path, count: int, seed: int) -> Path:
    """Distinct 512x512 16-bit DICOM slices: a sample slice, enlarged, with noise of its own."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    source = next(p for p in sorted(sample.STUDY.glob("brain_axial*.dcm")))
    template = pydicom.dcmread(source)
    grey = Image.fromarray(template.pixel_array.astype(np.float32)).resize((512, 512))
    pixels = np.asarray(grey)
    template.decompress() if template.file_meta.TransferSyntaxUID.is_compressed else None
    template.Rows = template.Columns = 512
    for number in range(count):
        noisy = np.clip(pixels + random.normal(0, 8, pixels.shape), 0, 4095).astype("<u2")
        template.PixelData = noisy.tobytes()
        template.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{seed + 1}.{number + 1}"
        template.file_meta.MediaStorageSOPInstanceUID = template.SOPInstanceUID
        template.save_as(folder / f"{number:05}.dcm")
    return folder


def report(rates: dict[str, list[float]], chosen: argparse.Namespace) -> None:
    base = statistics.median(rates["bare ONNX Runtime, batch 32"])
    print(
        f"\n{chosen.files} slices of 512x512 16-bit, {chosen.rounds} rounds, {chosen.provider}, {os.cpu_count()} processors"
    )
    print(f"{'':46}{'slices/s':>10}{'min':>8}{'max':>8}{'of bare':>9}")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:46}{median:10.1f}{min(values):8.1f}{max(values):8.1f}{median / base:9.2f}")


if __name__ == "__main__":
    main()
