"""Bodies that bring files: few at a time, read in threads, settled before anything is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Protocol

from starlette.requests import Request

from slicewise.db.records import Lane
from slicewise.worker.intake.delivery import Delivery, Outcome
from slicewise.worker.intake.multipart import Malformed, Part
from slicewise.worker.intake.receiving.committer import Sending
from slicewise.worker.intake.receiving.reception import Declined, Reception
from slicewise.worker.web.body import Body, Bounds
from slicewise.worker.web.problems import Problem

WAYS = ("stow", "http")
"""As arrivals name them: STOW-RS, and uploads as jobs."""

# Threads that wait for the disk and the database, for all uploads together.
_KEEPERS = 16


class Reading(Protocol):
    """Whatever takes a body apart."""

    def write(self, piece: bytes) -> None:
        """Read on; raises `Malformed`, `Declined` or `Problem`."""

    def finish(self) -> None:
        """See that it has come to its end; raises `Malformed`."""


class Single:
    """A body that is one file."""

    def __init__(self, delivery: Delivery, part: Part) -> None:
        self._delivery, self._part = delivery, part

    def write(self, piece: bytes) -> None:
        """Read on."""
        self._part.write(piece)

    def finish(self) -> None:
        """Keep it."""
        self._delivery.end(self._part)


class Counted:
    """Refuses the part that is one too many.

    Parameters
    ----------
    most
        Parts of one message.
    """

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0

    def one_more(self) -> None:
        """Raise a `Problem` where there are too many."""
        self._count += 1
        if self._count > self._most:
            detail = f"more than {self._most} parts in one message: send less at a time"
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


class Uploads:
    """Takes in what requests bring. Use it as a context: leaving it waits for its threads.

    Parameters
    ----------
    reception
        Where it is kept, by way and lane.
    """

    def __init__(self, reception: Callable[[str, Lane], Reception], bounds: Bounds) -> None:
        self._receptions = {(way, lane): reception(way, lane) for way in WAYS for lane in Lane}
        self.bounds = bounds
        self._keepers, self._readers = ThreadPoolExecutor(_KEEPERS), ThreadPoolExecutor(bounds.uploads)
        self._busy = 0

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Wait until what was let go of has left nothing behind."""
        self._readers.shutdown()
        self._keepers.shutdown()

    async def take(
        self, request: Request, way: str, reader: Callable[[Delivery], Reading], settled: Callable[[Outcome], None]
    ) -> str:
        """Read a body; when this returns, all that it brought is kept or declined.

        What has come whole before a body breaks off is kept: sent again, it is known.

        Parameters
        ----------
        way
            One of `WAYS`, for the books.

        Returns
        -------
        str
            The submission that joins its jobs.

        Raises
        ------
        Problem
            It is not what it should be, too much, or too slow.
        """
        reception = self._receptions[way, lane(request)]
        body = Body(request, self.bounds)
        if self._busy >= self.bounds.uploads:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many uploads at a time: try again")
        self._busy += 1
        delivery = Delivery(reception, Sending(request.state.caller), self._keepers, settled)
        try:
            await self._read(body, delivery, reader)
        except Malformed as error:
            raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from None
        except Declined as error:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.comment) from None
        finally:
            self._busy -= 1
        return delivery.sending.submission

    async def _read(self, body: Body, delivery: Delivery, reader: Callable[[Delivery], Reading]) -> None:
        try:
            reading = reader(delivery)
            async for piece in body.pieces():
                await self._aside(partial(reading.write, piece))
            await self._aside(reading.finish)
        finally:
            await self._aside(delivery.close)

    async def _aside(self, work: Callable[[], object]) -> None:
        """Do something in a thread; it is over when this returns, even where the request is given up meanwhile."""
        running = asyncio.get_running_loop().run_in_executor(self._readers, work)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


def lane(request: Request) -> Lane:
    """The lane that a request asks for.

    Raises
    ------
    Problem
        There is no such lane.
    """
    asked = request.query_params.get("lane", Lane.ROUTINE)
    if asked not in set(Lane):
        raise Problem(HTTPStatus.BAD_REQUEST, "no such lane: give ?lane=stat or ?lane=routine")
    return Lane(asked)
