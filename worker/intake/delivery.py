"""What one request brings: files that come one after the other and are kept side by side."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slicewise.worker.errors import Retryable
from slicewise.worker.imaging.identity import Identity
from slicewise.worker.intake.multipart import Part
from slicewise.worker.intake.receiving.committer import Sending
from slicewise.worker.intake.receiving.reception import Arriving, Declined, Reception, Status
from slicewise.worker.intake.sources import Cut, Skipped, Source, Untakeable, is_archive, members, opened

# Files of one request that wait for the disk and the database while the next ones come.
_ASIDE = 8

_CHUNK = 1 << 20

_NOBODY = Identity(None, None, None, None)

# So much of an archive is written without another look at the disk.
_UNLOOKED = 8 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of one file: it is kept, or `declined` says why not.

    `source` is what it is called, `found` what it says it is, as far as it could be read.
    """

    source: str
    found: Identity
    declined: Declined | None


class Archive:
    """A zip archive on its way in: it can only be taken apart when all of it is there.

    Parameters
    ----------
    name
        What it is called.
    """

    def __init__(self, reception: Reception, name: str) -> None:
        self.name = name
        self._reception = reception
        self._looked = 0
        self._size = 0
        self._reading: IO[bytes] | None = None
        self.declined: Declined | None = None
        self.write(b"")

    def write(self, piece: bytes) -> None:
        """Add a piece; a failure is kept, as `declined`, until it has come to its end."""
        if self.declined:
            return
        try:
            self._reading = self._reading or self._reception.scratch()
            if self._size + len(piece) >= self._looked:
                self._looked = self._size + len(piece) + _UNLOOKED
                self._reception.make_sure_of_room(len(piece))
            self._reading.write(piece)
            self._size += len(piece)
        except OSError as error:
            comment = f"the spool cannot be written: {error.strerror}"
            self.declined = Declined(Status.OUT_OF_RESOURCES, comment, passing=True)
            self.discard()

    def sources(self) -> Iterator[Source | Skipped | Cut]:
        """What is in it; or itself, where it is no archive whatever it is called."""
        assert self._reading
        reading = self._reading
        reading.seek(0)
        if is_archive("upload.zip", reading):
            yield from members(Path(self.name), reading)
        else:
            yield Source(self.name, "", lambda: reading)

    def discard(self) -> None:
        """Let go of it."""
        if self._reading:
            self._reading.close()


class Delivery:
    """The files of one request. Not for several threads at a time.

    Parameters
    ----------
    pool
        Runs what waits for the disk and the database; shared by all requests.
    settled
        Called for every file, once it is kept or declined.
    """

    def __init__(
        self, reception: Reception, sending: Sending, pool: Executor, settled: Callable[[Outcome], None]
    ) -> None:
        self._reception, self._pool, self._settled = reception, pool, settled
        self.sending = sending
        self._broken: Declined | None = None
        self._current: Arriving | Archive | None = None
        self._waiting: deque[tuple[Arriving, Future[None]]] = deque()

    def begin_file(self, study: str | None) -> Part:
        """Begin a DICOM file, of one study or (None) of any."""
        self._current = self._reception.begin_file(study=study)
        return self._current

    def begin_upload(self, name: str, *, archive: bool) -> Part:
        """Begin a file of any kind, or a zip archive of such files."""
        self._current = Archive(self._reception, name) if archive else self._reception.begin_upload(name)
        return self._current

    def end(self, part: Part) -> None:
        """Keep what has come to its end."""
        self._current = None
        if isinstance(part, Archive):
            try:
                self._unpack(part)
            finally:
                part.discard()
        elif isinstance(part, Arriving):
            self._keep(part)

    def close(self) -> None:
        """Wait until every file is settled; what is half there is let go of, and the jobs close."""
        if self._current:
            self._current.discard()
        try:
            while self._waiting:
                self._settle()
        finally:
            self._reception.end(self.sending)

    def _unpack(self, archive: Archive) -> None:
        if archive.declined:
            self._settled(Outcome(archive.name, _NOBODY, archive.declined))
            return
        for one in archive.sources():
            if isinstance(one, Cut):
                # The members are copies by now.
                continue
            try:
                with opened(one) as reading:
                    self._copy(one.name, reading)
            except Untakeable as error:
                declined = Declined(Status.CANNOT_UNDERSTAND, str(error), passing=isinstance(error.__cause__, OSError))
                self._settled(Outcome(one.name, _NOBODY, declined))

    def _copy(self, name: str, reading: IO[bytes]) -> None:
        arriving = self._reception.begin_upload(name)
        with ExitStack() as stack:
            stack.callback(arriving.discard)
            shutil.copyfileobj(reading, arriving, _CHUNK)
            stack.pop_all()
        self._keep(arriving)

    def _keep(self, arriving: Arriving) -> None:
        if self._broken:
            # Not tried: each try may wait for a database that is away.
            arriving.decline(self._broken)
        self._waiting.append((arriving, self._pool.submit(self._reception.keep, self.sending, arriving)))
        if len(self._waiting) > _ASIDE:
            self._settle()

    def _settle(self) -> None:
        arriving, kept = self._waiting.popleft()
        declined = None
        try:
            kept.result()
        except Declined as error:
            declined = error
            if isinstance(error.__cause__, Retryable):
                self._broken = declined
        self._settled(Outcome(arriving.source, arriving.found, declined))
