"""One object, from the first byte of its data set to the answer. Knows no network."""

from __future__ import annotations

import re
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import IO

from slicewise.db.records import Content
from slicewise.worker.errors import Refused, Retryable
from slicewise.worker.imaging import identity, limits
from slicewise.worker.imaging.identity import Identity
from slicewise.worker.intake.receiving.committer import Committer, Sending
from slicewise.worker.intake.receiving.heading import heading
from slicewise.worker.intake.spool import Incoming, Spool, Spooled


class Status(IntEnum):
    """What a request is answered with: PS3.4 B.2.3, and PS3.7 Annex C for the general ones."""

    SUCCESS = 0x0000
    INVALID_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Declined(Exception):
    """An object that was not kept.

    Parameters
    ----------
    status
        What the peer is told.
    comment
        Why, as Error Comment (0000,0902): at most 64 characters, nothing of the object's own.
    passing
        Whether the same object may be kept another time.
    """

    def __init__(self, status: Status, comment: str, *, passing: bool = False) -> None:
        super().__init__(status, comment)
        self.status, self.comment, self.passing = status, comment, passing


class Arriving:
    """Something on its way into the spool, piece by piece: memory holds no more of it than its head.

    A failure is kept until it has come to its end: that is when its sender listens.

    Attributes
    ----------
    found
        What it says it is, once it has come to its end and could be read.
    """

    def __init__(self, spool: Spool) -> None:
        self._head = bytearray()
        self._size = 0
        self._declined: Declined | None = None
        self.found = Identity(None, None, None, None)
        self._incoming: Incoming | None = None
        try:
            self._incoming = spool.begin()
        except OSError as error:
            self._fail(error)

    def write(self, fragment: bytes | memoryview) -> None:
        """Add a fragment.

        Raises
        ------
        Declined
            It is so long that nobody will wait for its end.
        """
        self._size += len(fragment)
        if self._size > 2 * limits.MAX_FILE_BYTES:
            raise Declined(Status.OUT_OF_RESOURCES, "endless")
        if self._size > limits.MAX_FILE_BYTES:
            self.decline(
                Declined(Status.OUT_OF_RESOURCES, f"more than {limits.MAX_FILE_BYTES >> 20} MiB in one object")
            )
        if len(self._head) < identity.HEAD_BYTES:
            self._head += fragment[: identity.HEAD_BYTES - len(self._head)]
        self._store(fragment)

    @property
    def source(self) -> str:
        """What it is called, behind its sender's name."""
        return str(self.found.sop_instance_uid)

    def keep(self) -> Spooled:
        """Make it durable.

        Raises
        ------
        Declined
            It is not what it was announced as, or could not be kept.
        """
        try:
            # Of what is declined, too: its sender is told which one it was.
            self._identify(bytes(self._head))
            if self._incoming:
                return self._incoming.keep()
        except Declined as declined:
            self.decline(declined)
        except OSError as error:
            self._fail(error)
        assert self._declined
        raise self._declined

    def decline(self, declined: Declined) -> None:
        """Keep nothing of it; the first reason stands."""
        self._declined = self._declined or declined
        self.discard()

    def discard(self) -> None:
        """Let go of what is not kept; does no harm to what is."""
        if self._incoming:
            incoming, self._incoming = self._incoming, None
            incoming.__exit__()

    def _store(self, piece: bytes | memoryview) -> None:
        try:
            if self._incoming:
                self._incoming.write(piece)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.decline(
            Declined(Status.OUT_OF_RESOURCES, f"the spool cannot be written: {error.strerror}"[:64], passing=True)
        )

    def _identify(self, head: bytes) -> None:
        """Find out what it is, as far as its head shows; raises `Declined`."""
        raise NotImplementedError


class ArrivingObject(Arriving):
    """A data set that a C-STORE command announces; it gets the heading of a file."""

    def __init__(self, spool: Spool, sop_class: str, sop_instance: str, transfer_syntax: str) -> None:
        super().__init__(spool)
        self._named = (sop_class, sop_instance)
        self._transfer_syntax = transfer_syntax
        if not re.fullmatch(r"[0-9.]{1,64}", sop_instance):
            # PS3.7 Annex C, invalid object instance: the UID violates the construction rules (PS3.5 9.1).
            self.decline(Declined(Status.INVALID_INSTANCE, "the SOP Instance UID is no UID"))
            return
        self._store(heading(sop_class, sop_instance, transfer_syntax))

    def _identify(self, head: bytes) -> None:
        """See that the data set is what the command announced (PS3.4 B.2.3)."""
        try:
            self.found = identity.identify(head, self._transfer_syntax)
        except Refused as refused:
            raise Declined(Status.CANNOT_UNDERSTAND, "the data set cannot be parsed") from refused
        given = (self.found.sop_class_uid, self.found.sop_instance_uid)
        if given == (None, None):
            raise Declined(Status.CANNOT_UNDERSTAND, "no SOP Class and Instance UID in the data set")
        if given != self._named:
            raise Declined(Status.DOES_NOT_MATCH, "SOP Class or Instance UID differ from the command's")


class ArrivingFile(Arriving):
    """A whole file (PS3.10), as DICOMweb carries it.

    Parameters
    ----------
    sop_instance, study
        What it has to be; None lets any.
    """

    def __init__(self, spool: Spool, sop_instance: str | None = None, study: str | None = None) -> None:
        super().__init__(spool)
        self._sop_instance, self._study = sop_instance, study

    def _identify(self, head: bytes) -> None:
        try:
            self.found = identity.identify_file(head)
        except Refused as refused:
            raise Declined(Status.CANNOT_UNDERSTAND, "it is no DICOM file that can be parsed") from refused
        if not self.found.sop_class_uid or not self.found.sop_instance_uid:
            raise Declined(Status.CANNOT_UNDERSTAND, "no SOP Class and Instance UID in the data set")
        if self._sop_instance not in {None, self.found.sop_instance_uid}:
            raise Declined(Status.DOES_NOT_MATCH, "another SOP Instance UID than the one asked for")
        if self._study not in {None, self.found.study_instance_uid}:
            raise Declined(Status.DOES_NOT_MATCH, "another Study Instance UID than the one it is sent to")


class ArrivingUpload(Arriving):
    """A file of any kind, by its name: what it is will be found when it is decoded, and refused by a row."""

    def __init__(self, spool: Spool, name: str) -> None:
        super().__init__(spool)
        self._name = name

    @property
    def source(self) -> str:
        return self._name

    def _identify(self, head: bytes) -> None:
        """Anything is taken."""


class Reception:
    """Where objects are kept; one for a process, shared by its associations.

    Parameters
    ----------
    spool
        The spool's folder.
    reserve_bytes
        Bytes of the disk that stay free: below them everything is declined, until there is room again.
    """

    def __init__(self, spool: Path, committer: Committer, *, reserve_bytes: int) -> None:
        self._spool = Spool(spool, reserve_bytes=reserve_bytes)
        self._committer = committer

    def begin(self, sop_class: str, sop_instance: str, transfer_syntax: str) -> Arriving:
        """Begin an object that a C-STORE command announces."""
        return ArrivingObject(self._spool, sop_class, sop_instance, transfer_syntax)

    def begin_file(self, sop_instance: str | None = None, study: str | None = None) -> Arriving:
        """Begin a DICOM file: of any instance, of this one, of this study."""
        return ArrivingFile(self._spool, sop_instance, study)

    def begin_upload(self, name: str) -> Arriving:
        """Begin a file of any kind."""
        return ArrivingUpload(self._spool, name)

    def scratch(self) -> IO[bytes]:
        """A file without a name, beside the spool: whoever is killed leaves nothing of it.

        Raises
        ------
        OSError
            The spool cannot be written.
        """
        return self._spool.scratch()

    def make_sure_of_room(self, size_bytes: int) -> None:
        """See that the disk has its reserve and so many bytes to spare; raises `OSError`."""
        self._spool.make_sure_of_room(size_bytes)

    def keep(self, sending: Sending, arriving: Arriving) -> None:
        """Keep what has come to its end. Only now may success be answered.

        Raises
        ------
        Declined
            It is neither in the database nor, as far as anybody will ever ask, in the spool.
        """
        try:
            stored = arriving.keep()
        finally:
            arriving.discard()
        uid, series = arriving.found.sop_instance_uid, arriving.found.series_instance_uid
        content = Content(stored.sha256, stored.size_bytes, f"{sending.sender}/{arriving.source}", uid, series)
        try:
            self._committer.add(sending, series, content)
        except Retryable as error:
            away = "the database is away: send it again later"
            raise Declined(Status.OUT_OF_RESOURCES, away, passing=True) from error

    def end(self, sending: Sending) -> None:
        """An association is over: its jobs need not wait until they have been quiet."""
        if sending.jobs:
            with suppress(Retryable):
                self._committer.end(sending)
