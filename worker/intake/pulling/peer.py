"""What a PACS has to be able to do, however it is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from slicewise.worker.errors import Retryable
from slicewise.worker.intake.pulling.wanted import Wanted
from slicewise.worker.intake.receiving.committer import Sending

MAX_ANSWERS = 100_000
"""Most answers to one question: more are no study, and would fill the memory."""


class Away(Retryable):
    """The PACS does not answer, or broke off: it may another time."""


class Declines(Exception):
    """The PACS answers and says no; asking again would change nothing. The message says what would."""


@dataclass(frozen=True)
class Series:
    """A series that a PACS has."""

    study: str
    uid: str
    modality: str = ""


@dataclass(frozen=True)
class Instance:
    """An instance that a PACS has."""

    uid: str
    sop_class: str = ""


def named(uid: str) -> str:
    """The UID that an answer has to have.

    Raises
    ------
    Declines
        It has none: leaving it out would say that there is less than there is.
    """
    if not uid:
        raise Declines("the PACS answers without the UID that was asked for")
    return uid


class Peer(Protocol):
    """A PACS. What is fetched from it goes where a receiver's objects go, under `sending`."""

    name: str
    sending: Sending

    def series(self, wanted: Wanted) -> Iterator[Series]:
        """The series that it has of what is wanted.

        Raises
        ------
        Away, Declines
        """

    def instances(self, series: Series) -> list[Instance]:
        """The instances that it has of a series.

        Raises
        ------
        Away, Declines
        """

    def fetch(self, series: Series, instances: Sequence[Instance], came: Callable[[], None]) -> dict[str, str]:
        """Fetch some instances of one series; `came` is called after each that is kept, where that is known.

        Returns
        -------
        dict
            Why one did not come, by SOP Instance UID, as far as the PACS says. What did come, the database knows.

        Raises
        ------
        Away, Declines
            What came before stays.
        """

    def close(self) -> None:
        """Nothing more is fetched: jobs need not wait until they have been quiet."""
