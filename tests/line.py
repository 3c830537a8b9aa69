"""A network between two processes: it holds, breaks, or forgets."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Line:
    """A port that leads to another one, or to a unix socket. Use it as a context.

    Parameters
    ----------
    seed
        Given, one of three connections breaks, wherever it happens to be.

    Attributes
    ----------
    cuts
        How many have broken.
    breaks
        Whether connections go on breaking.
    """

    def __init__(self, target: tuple[str, int] | str, seed: int | None = None) -> None:
        self._target, self._choose = target, None if seed is None else random.Random(seed)
        self._generation = 0
        self.breaks = True
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
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
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                self._start(self._carry, near, self._length(), self._generation)

    def forget(self) -> None:
        """What is connected now is never answered again, nor closed, as by a firewall; what comes later is."""
        self._generation += 1

    def _length(self) -> int | None:
        """After how many bytes a connection breaks, in the middle of a PDU or a statement mostly; None where it holds."""
        broken = self._choose and self._choose.random() < 1 / 3
        return int(10 ** self._choose.uniform(2, 5.8)) if self._choose and broken else None

    def _far(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target, timeout=5)
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._target)
        except OSError:
            far.close()
            raise
        return far

    def _carry(self, near: socket.socket, lasts: int | None, generation: int) -> None:
        with near, suppress(OSError), self._far() as far:
            while not self._over.is_set():
                for ready in select.select([near, far], [], [], 0.2)[0]:
                    if generation != self._generation:
                        self._over.wait()
                        return
                    piece = ready.recv(16_384)
                    if not piece:
                        return
                    if self.breaks and lasts is not None and (lasts := lasts - len(piece)) < 0:
                        self.cuts += 1
                        return
                    (far if ready is near else near).sendall(piece)


def hang_up(connection: socket.socket) -> None:
    """Say that no more will come, unless the other side has broken off before."""
    with suppress(OSError):  # ENOTCONN, which is no ConnectionError
        connection.shutdown(socket.SHUT_WR)
