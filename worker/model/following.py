"""A long-lived process and the bundle in charge, which may change under it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from slicewise.worker.errors import Misconfigured
from slicewise.worker.settings import Settings

log = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def sha256(self) -> str: ...


T = TypeVar("T", bound=_Named)


class Following(Generic[T]):
    """What `make` makes of the bundle in charge, and makes again when another one is promoted.

    One that cannot be loaded changes nothing: what served serves on, the log says why, and it is not tried again.

    Raises
    ------
    Misconfigured
        The bundle in charge cannot be loaded to begin with.
    """

    def __init__(self, settings: Settings, make: Callable[[Path], T]) -> None:
        self._settings, self._make = settings, make
        self._path = settings.serving
        self._made = make(self._path)

    def now(self) -> T:
        """Made of the bundle that is in charge by now."""
        try:
            path = self._settings.serving
            if path == self._path:
                return self._made
            self._path = path
            self._made = self._make(path)
        except Misconfigured as error:
            log.warning("%s serves on: %s", self._made.sha256[:12], error)
        else:
            log.info("%s serves now", self._made.sha256[:12])
        return self._made
