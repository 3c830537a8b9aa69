"""Objects a second over the DICOM network, side by side in one run: dcmtk's storescp, Orthanc, `slicewise receive`.

``make bench`` calls it. Needs dcmtk and Orthanc. Only slicewise has each object on the disk (fsync) and its database committed
before it answers; Orthanc writes its SQLite index without waiting for the disk by default, and storescp has no index.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from slicewise.worker.intake.spool import Spool
from tests.bench.throughput import make_scans

# Without it each object of dcmtk's tools stalls for 46 ms: Nagle's algorithm against delayed acknowledgements.
DCMTK = {**os.environ, "TCP_NODELAY": "1"}

Start = Callable[[Path, int], contextlib.AbstractContextManager[None]]
"""Starts a peer in a folder of its own, on a port; as a context."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="a part of a name")
    chosen = parser.parse_args()
    peers: dict[str, Start] = {
        "dcmtk storescp": storescp,
        "Orthanc": orthanc,
        "slicewise receive": lambda folder, port: slicewise(folder, port, 1),
        "slicewise receive --processes 2": lambda folder, port: slicewise(folder, port, 2),
    }
    rates: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        scans = make_scans(Path(scratch) / "scans", chosen.files, seed=0)
        for round_ in range(chosen.rounds):
            alone = spool_alone(Path(scratch) / f"alone-{round_}", scans)
            rates.setdefault(("the disk: slicewise's spool alone", 1), []).append(alone)
            for name, peer in peers.items():
                for associations in (1, 4):
                    if chosen.only and chosen.only not in name:
                        continue
                    folder = Path(scratch) / f"{name}-{associations}-{round_}".replace(" ", "")
                    folder.mkdir()
                    rate = measure(peer, folder, scans, associations)
                    rates.setdefault((name, associations), []).append(rate)
    report(rates, chosen)


def spool_alone(folder: Path, scans: Path) -> float:
    """What the disk allows one association: files a second that are made durable, one after the other."""
    spool, files = Spool(folder), sorted(scans.iterdir())
    os.sync()
    started = time.perf_counter()
    for path in files:
        with path.open("rb") as reading:
            spool.add(reading)
    return len(files) / (time.perf_counter() - started)


def measure(peer: Start, folder: Path, scans: Path, associations: int) -> float:
    """Objects a second that a peer takes over so many associations, which share the scans."""
    files = sorted(scans.iterdir())
    with peer(folder, port := free_port()):
        wait_until_it_answers(port)
        # What the peer before left in the cache would be written at this one's cost.
        os.sync()
        words = ["storescu", "-aec", "BENCH", "127.0.0.1", str(port)]
        started = time.perf_counter()
        senders = [
            subprocess.Popen([*words, *map(str, files[first::associations])], env=DCMTK)
            for first in range(associations)
        ]
        assert [sender.wait() for sender in senders] == [0] * associations
        return len(files) / (time.perf_counter() - started)


@contextlib.contextmanager
def storescp(folder: Path, port: int) -> Iterator[None]:
    with running(["storescp", "--fork", "-aet", "BENCH", "-od", folder, str(port)]):
        yield


@contextlib.contextmanager
def orthanc(folder: Path, port: int) -> Iterator[None]:
    settings = {
        "Name": "bench",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "DicomAet": "BENCH",
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running(["Orthanc", folder / "orthanc.json"]):
        yield


@contextlib.contextmanager
def slicewise(folder: Path, port: int, processes: int) -> Iterator[None]:
    command = [sys.executable, "-m", "slicewise.worker.cli"]
    environment = {"SLICEWISE_HOME": str(folder / "h")}
    subprocess.run(
        [*command, "db", "upgrade"], env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL
    )
    words = ["receive", "--aet", "BENCH", "--port", str(port), "--processes", str(processes)]
    with running([*command, *words], **environment):
        yield


@contextlib.contextmanager
def running(words: list[object], **environment: str) -> Iterator[None]:
    """A process that is ended with the context."""
    process = subprocess.Popen(
        list(map(str, words)),
        env={**DCMTK, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(
        ["echoscu", "-aec", "BENCH", "127.0.0.1", str(port)], env=DCMTK, stderr=subprocess.DEVNULL, check=False
    ).returncode:
        assert time.monotonic() < deadline, "it does not answer"
        time.sleep(0.1)


def report(rates: dict[tuple[str, int], list[float]], chosen: argparse.Namespace) -> None:
    print(f"\n{chosen.files} objects of 512x512 16-bit, {chosen.rounds} rounds, {os.cpu_count()} processors")
    print(f"{'':34}{'associations':>14}{'objects/s':>11}{'min':>8}{'max':>8}")
    for (name, associations), values in rates.items():
        median = statistics.median(values)
        print(f"{name:34}{associations:14}{median:11.1f}{min(values):8.1f}{max(values):8.1f}")


if __name__ == "__main__":
    main()
