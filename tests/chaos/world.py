"""A small hospital under fire: everything that slicewise runs, kept alive, fed, and killed at random."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.line import Line

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
    lines: list[Line] = field(default_factory=list)
    """Over which its parts and its feeders speak."""
    disk: Disk | None = None
    victims: dict[str, Callable[[], list[int]]] = field(default_factory=dict)
    """The numbers of the processes that live now, by kind."""
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
        """Keep every part and line alive; at the end, end them."""
        with ExitStack() as stack:
            for line in self.lines:
                stack.enter_context(line)
            with self._parts_alive():
                yield

    @contextmanager
    def _parts_alive(self) -> Iterator[None]:
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
            with suppress(OSError, ValueError, IndexError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if f"{self.home}/redis.sock".encode() in b" ".join(words):
                    found[int(entry.name)] = "redis"
                elif f"SLICEWISE_HOME={self.home}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    # Between fork and exec it still has the few words of its parent, or none.
                    ours = b"slicewise.worker.cli" in words
                    found[int(entry.name)] = (
                        words[words.index(b"slicewise.worker.cli") + 1].decode() if ours else "helper"
                    )
        return found

    def strike_at_random(self, count: int, pause: tuple[float, float]) -> None:
        """Kill so many processes, and fill the disk in between; which and when is random."""
        choose, turns = random.Random(self.seed), []
        kinds = [*self.victims, *(["disk"] if self.disk else [])]
        while self.kills.total() < count:
            time.sleep(choose.uniform(*pause))
            # Every kind has its turn before one has its next: a short run leaves none out.
            turns = turns or choose.sample(sorted(kinds), len(kinds))
            kind = turns.pop()
            if kind == "disk":
                self.disk.full_for(choose.uniform(0.3, 3))
            else:
                self._kill(kind, choose)

    def _kill(self, kind: str, choose: random.Random) -> None:
        """SIGKILL a process of a kind; one that has none for a while is passed over."""
        deadline = time.monotonic() + 10
        while not (alive := self.victims[kind]()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if alive:
            with suppress(ProcessLookupError):
                os.kill(choose.choice(sorted(alive)), signal.SIGKILL)
                self.kills[kind] += 1
                if self.kills.total() % 100 == 0:
                    print(f"chaos: {self.kills.total()} killed", flush=True)

    def killing(self, *kinds: str) -> None:
        """Let these kinds of slicewise's processes be victims."""
        for kind in kinds:
            self.victims[kind] = lambda kind=kind: self.of(kind)

    def serve(self, name: str, begin: Callable[[], subprocess.Popen], process: subprocess.Popen | None = None) -> None:
        """A server that is no part of slicewise; a victim, too."""
        part = Part(name, begin, process)
        self.parts.append(part)
        self.victims[name] = lambda: [part.process.pid] if part.process else []

    def through(self, target: tuple[str, int] | str) -> int:
        """The port of a line to an address or a unix socket."""
        self.lines.append(Line(target, self.seed + len(self.lines)))
        return self.lines[-1].port

    def of(self, kind: str) -> list[int]:
        """The numbers of this world's processes of a kind."""
        return [number for number, name in self.members().items() if name == kind]


class Disk:
    """A small file system of its own for a folder, which can be full. Needs root.

    Parameters
    ----------
    roomy
        How much it holds when it is not full, in bytes.
    """

    def __init__(self, folder: Path, roomy: int = 8 << 30) -> None:
        self._folder, self._roomy = folder, roomy
        self.times = 0
        _mount("-t", "tmpfs", "-o", f"size={roomy},mode=700", "tmpfs", folder)

    def full_for(self, seconds: float) -> None:
        """Let it be full for a while, but for less than 64 KiB."""
        self._resize(lambda: (at := os.statvfs(self._folder)).f_frsize * (at.f_blocks - at.f_bfree) + (64 << 10))
        self.times += 1
        time.sleep(seconds)
        self._resize(lambda: self._roomy)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self._folder], check=True)

    def _resize(self, size: Callable[[], int]) -> None:
        for _ in range(50):
            # It cannot be made smaller than what has been written meanwhile.
            with suppress(subprocess.CalledProcessError):
                return _mount("-o", f"remount,size={size()}", self._folder)
        raise AssertionError("the disk cannot be filled")


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


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
