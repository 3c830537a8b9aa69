"""A request's body, within bounds of size and of patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import Request

from slicewise.worker.web.problems import Problem

# A body that comes more slowly than this would hold its place for ever: some bytes now and then are no silence.
_LEAST_BYTES_A_SECOND = 1024


@dataclass(frozen=True)
class Bounds:
    """How much one request may take.

    Parameters
    ----------
    size_bytes
        Most in one body.
    parts
        Most files in one multipart message.
    silent_seconds
        A body that brings nothing for so long is given up; so is one that falls so far behind 1 KiB a second.
    uploads
        Most at a time, in each process.
    """

    size_bytes: int = 16 << 30
    parts: int = 10_000
    silent_seconds: float = 60.0
    uploads: int = 16


class Body:
    """The body of one request; to be read once.

    Raises
    ------
    Problem
        It is announced as longer than may be, or it is compressed.
    """

    def __init__(self, request: Request, bounds: Bounds) -> None:
        self._request, self._bounds = request, bounds
        self._size = 0
        self._ended = False
        self._began = time.monotonic()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a compressed body: send it as it is")
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > bounds.size_bytes:
            raise self._too_long()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes as they come.

        Raises
        ------
        Problem
            It is too long or too slow, or its sender has gone.
        """
        while not self._ended:
            try:
                async with asyncio.timeout(self._patience()):
                    message = await self._request.receive()
            except TimeoutError:
                raise Problem(HTTPStatus.REQUEST_TIMEOUT, "the body came too slowly: send it again") from None
            if message["type"] == "http.disconnect":
                raise Problem(HTTPStatus.BAD_REQUEST, "the body is cut off: send it again")
            self._ended = not message.get("more_body", False)
            piece = message.get("body", b"")
            self._size += len(piece)
            if self._size > self._bounds.size_bytes:
                raise self._too_long()
            yield piece

    def _patience(self) -> float:
        """Seconds until this body is given up, if nothing more comes."""
        behind = time.monotonic() - self._began - self._size / _LEAST_BYTES_A_SECOND
        return min(self._bounds.silent_seconds, max(0.0, 2 * self._bounds.silent_seconds - behind))

    def _too_long(self) -> Problem:
        most = f"{self._bounds.size_bytes >> 20} MiB"
        return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {most} in one request: send less at a time")
