"""A small hospital under fire: everything that slicewise runs, kept alive, fed, and killed at random."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_SLICEWISE = [sys.executable, "-m", "slicewise.worker.cli"]


@dataclass
class Part:
    """A process that is started again whenever it is gone, as systemd or a person would."""

    name: str
    begin: Callable[[], subprocess.Popen]
    process: subprocess.Popen | None = None

    def keep(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = self.begin()


@dataclass
class World:
    """One home and database, its parts, and those who feed it."""

    environment: dict[str, str]
    home: Path
    seed: int
    parts: list[Part] = field(default_factory=list)
    kills: Counter = field(default_factory=Counter)
    line: Line | None = None
    """Over which a modality sends."""
    received: list[Path] = field(default_factory=list)
    """What was sent by C-STORE and answered with success."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def command(self, *words: object) -> subprocess.Popen:
        """Start ``slicewise …`` in this world."""
        return subprocess.Popen(
            [*_SLICEWISE, *map(str, words)],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, name: str, *words: object) -> None:
        """A part that is ``slicewise …``."""
        self.parts.append(Part(name, lambda: self.command(*words)))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keep every part alive; at the end, end them."""
        keeper = threading.Thread(target=self._keep)
        keeper.start()
        try:
            yield
        finally:
            self._stop.set()
            keeper.join()
            for part in self.parts:
                if part.process:
                    part.process.terminate()
            for part in self.parts:
                if part.process:
                    with suppress(subprocess.TimeoutExpired):
                        part.process.wait(60)
                    part.process.kill()
                    part.process.wait()
            for number in self.members():
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    def _keep(self) -> None:
        while not self._stop.wait(0.2):
            for part in self.parts:
                part.keep()

    def members(self) -> dict[int, str]:
        """Every process of this world, with what it is."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError, ValueError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if f"{self.home}/redis.sock".encode() in b" ".join(words):
                    found[int(entry.name)] = "redis"
                elif f"SLICEWISE_HOME={self.home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    # Between fork and exec it still has the few words of its parent, or none.
                    ours = len(words) > 3 and words[2] == b"slicewise.worker.cli"
                    found[int(entry.name)] = words[3].decode() if ours else "helper"
        return found

    def kill_at_random(self, count: int, pause: tuple[float, float], kinds: dict[str, Callable[[], list[int]]]) -> None:
        """SIGKILL a process of a kind, so often; which and when is random.

        Parameters
        ----------
        kinds
            Each gives the numbers of its processes that live now. One that has none for a while is passed over.
        """
        choose, turns = random.Random(self.seed), []
        while self.kills.total() < count:
            time.sleep(choose.uniform(*pause))
            # Every kind has its turn before one has its next: a short run leaves none out.
            turns = turns or choose.sample(sorted(kinds), len(kinds))
            kind = turns.pop()
            deadline = time.monotonic() + 10
            while not (alive := kinds[kind]()) and time.monotonic() < deadline:
                time.sleep(0.02)
            if alive:
                with suppress(ProcessLookupError):
                    os.kill(choose.choice(sorted(alive)), signal.SIGKILL)
                    self.kills[kind] += 1

    def of(self, kind: str) -> list[int]:
        """The numbers of this world's processes of a kind."""
        return [number for number, name in self.members().items() if name == kind]


class Line:
    """A connection to a port that breaks now and then, wherever it happens to be. Use it as a context."""

    def __init__(self, target: int, seed: int) -> None:
        self._target, self._choose = target, random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.2)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.port, self.cuts = self._listening.getsockname()[1], 0

    def __enter__(self) -> Line:
        self._start(self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        for thread in list(self._threads):
            thread.join()
        self._listening.close()

    def _start(self, work: Callable[..., None], *words: object) -> None:
        self._threads.append(threading.Thread(target=work, args=words))
        self._threads[-1].start()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                near, _ = self._listening.accept()
                # Two of three connections hold; the third breaks somewhere within a batch, in the middle of a PDU mostly.
                lasts = self._choose.randrange(200, 600_000) if self._choose.random() < 1 / 3 else None
                self._start(self._carry, near, lasts)

    def _carry(self, near: socket.socket, lasts: int | None) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._target), timeout=5) as far:
            while not self._over.is_set():
                for ready in select.select([near, far], [], [], 0.2)[0]:
                    piece = ready.recv(16_384)
                    if not piece:
                        return
                    if lasts is not None and (lasts := lasts - len(piece)) < 0:
                        self.cuts += 1
                        return
                    (far if ready is near else near).sendall(piece)


def until_it_works(command: Callable[[], subprocess.Popen], seconds: float = 600) -> None:
    """What a person or a modality does: try again until success is answered."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process = command()
        try:
            if process.wait(60) == 0:
                return
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        time.sleep(0.2)
    raise AssertionError(f"no success within {seconds} s: {process.args}")
