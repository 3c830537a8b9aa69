"""What the kernel says has happened below a folder: names to look at. A hint only, for it says nothing of what it missed."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

# It warns of folders that it finds twice, a race of its own that does no harm, and names their paths.
warnings.filterwarnings("ignore", module=r"watchdog\.")

# Reading a file makes events too: those are not asked for.
_HEARD: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

_MOST = 100_000


class Events:
    """Listens below a folder while it is used as a context; where the kernel cannot, nothing is ever heard.

    Parameters
    ----------
    root
        The folder; names are given relative to it.
    ignores
        Names of which nothing need be heard.
    """

    def __init__(self, root: Path, ignores: Callable[[str], bool] = lambda _name: False) -> None:
        self._root, self._ignores = os.fspath(root), ignores
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._everything = False
        # The library's own words name paths.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)

    def __enter__(self) -> Events:
        """Begin to listen.

        Raises
        ------
        OSError
            The kernel has no more watches to give (``fs.inotify.max_user_watches``), or there is no such folder.
        """
        self._observer = Observer()
        handler = FileSystemEventHandler()
        handler.on_any_event = self._hear  # type: ignore[method-assign]
        try:
            self._observer.schedule(handler, self._root, recursive=True, event_filter=_HEARD)
            self._observer.start()
        except OSError:
            self._observer.stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._observer.stop()
        self._observer.join()

    def heard(self) -> tuple[set[str], bool]:
        """Names that something happened to since the last call, and whether it is better to look everywhere."""
        with self._lock:
            names, everything = self._names, self._everything
            self._names, self._everything = set(), False
        return names, everything

    def _hear(self, event: FileSystemEvent) -> None:
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        names = [name for path in paths if not self._ignores(name := os.path.relpath(path, self._root))]
        with self._lock:
            if names and (event.is_directory or len(self._names) > _MOST):
                # A folder that comes brings files which nobody may have been told of.
                self._everything = True
            else:
                self._names.update(names)
