"""The plan: ask what the PACS has, fetch what has not come yet, look whether it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from slicewise.db import accounting
from slicewise.db.engine import Database
from slicewise.worker.intake.pulling.pace import Pace, Stopped
from slicewise.worker.intake.pulling.peer import Away, Declines, Instance, Peer, Series
from slicewise.worker.intake.pulling.wanted import Wanted

# Pauses before another try, in seconds; after the last the PACS counts as away.
_PAUSES = (1.0, 5.0, 20.0, 60.0)

# What a PACS sends elsewhere (C-MOVE) may be on its way for so long after it has said that it is done.
_ON_ITS_WAY_SECONDS = 10.0


_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Pulled:
    """What became of a series, in instances.

    Parameters
    ----------
    at_pacs
        How many the PACS has.
    before
        How many of these were here already.
    came
        How many came.
    missing
        How many did not; `reason` says why.
    """

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    at_pacs: int = 0
    before: int = 0
    came: int = 0
    missing: int = 0
    reason: str | None = None

    @property
    def complete(self) -> bool:
        """Whether everything of it is here."""
        return not self.missing and not self.reason


class Pull:
    """Fetches from a PACS what is not here yet. Killed and begun again, it goes on where it was.

    Parameters
    ----------
    database
        Where the receiver's objects are written down: what came is what stands there.
    progress
        Called with the number of instances that were looked at, and with how many there are in all as far as is known.
    """

    def __init__(
        self,
        peer: Peer,
        database: Database,
        pace: Pace,
        *,
        progress: Callable[[int, int], None] = lambda _done, _known: None,
        pauses: Sequence[float] = _PAUSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peer, self._database, self._pace = peer, database, pace
        self._progress, self._pauses, self._clock = progress, pauses, clock
        self._done = self._known = 0
        self._gone: Away | None = None

    def run(self, wanted: Iterable[Wanted]) -> Iterator[Pulled]:
        """Pull, and tell for each series what became of it; what the PACS has nothing of is told too.

        Yields
        ------
        Pulled
        """
        try:
            yield from self._run(wanted)
        finally:
            self._peer.close()

    def _run(self, wanted: Iterable[Wanted]) -> Iterator[Pulled]:
        seen: set[str] = set()
        for one in wanted:
            try:
                found = self._again(lambda one=one: list(self._peer.series(one)))  # type: ignore[misc]
            except (Away, Declines, Stopped) as error:
                yield Pulled(one.study, one.name, one.modality, reason=_why(error))
                continue
            if not found:
                yield Pulled(one.study, one.name, one.modality, reason="the PACS has nothing of it")
            for series in found:
                if series.uid not in seen:
                    seen.add(series.uid)
                    yield self._series(series)

    def _series(self, series: Series) -> Pulled:
        named = (series.study, series.uid, series.modality)
        try:
            there = self._again(lambda: self._peer.instances(series))
        except (Away, Declines, Stopped) as error:
            return Pulled(*named, reason=_why(error))
        uids = [one.uid for one in there]
        before = self._here(uids)
        self._tell(len(before), len(uids))
        missing = [one for one in there if one.uid not in before]
        reasons = self._fetch(series, missing)
        here = self._arrived(uids, patient=bool(missing) and not reasons)
        left = len(uids) - len(here)
        reason = "; ".join(reasons) or "the PACS says that it was sent, and it did not come" if left else None
        return Pulled(*named, len(uids), len(before), len(here) - len(before), left, reason)

    def _fetch(self, series: Series, missing: Sequence[Instance]) -> list[str]:
        """Fetch what is missing; why some of it did not come, as far as anybody says."""
        reasons: dict[str, None] = {}
        try:
            for batch in _batches(missing, self._pace.batch):
                self._pace.before(len(batch))
                reasons |= dict.fromkeys(self._again(lambda batch=batch: self._batch(series, batch)).values())  # type: ignore[misc]
        except (Away, Declines, Stopped) as error:
            reasons[_why(error)] = None
        finally:
            self._peer.close()
        return list(reasons)

    def _batch(self, series: Series, batch: Sequence[Instance]) -> dict[str, str]:
        """Fetch what has not come of a batch, which may be a second try."""
        here = self._here([one.uid for one in batch])
        left = [one for one in batch if one.uid not in here]
        return self._peer.fetch(series, left, lambda: self._tell(1, 0)) if left else {}

    def _again(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask, and ask again after a pause where the PACS is away; once it has been for too long, nothing is asked any more."""
        for pause in (*self._pauses, None):
            self._pace.pause(0)
            if self._gone:
                raise self._gone
            try:
                return ask()
            except Away as error:
                if pause is None:
                    self._gone = error
                    raise
                self._pace.pause(pause)
        raise AssertionError("the last pause is None")

    def _here(self, uids: Sequence[str]) -> set[str]:
        with self._database.reading() as session:
            return accounting.arrived(session, uids)

    def _arrived(self, uids: Sequence[str], *, patient: bool) -> set[str]:
        """Which of them are here; where everything was sent, a moment is waited for the last."""
        deadline = self._clock() + _ON_ITS_WAY_SECONDS
        while len(here := self._here(uids)) < len(uids) and patient and self._clock() < deadline:
            self._pace.pause(0.2)
        return here

    def _tell(self, done: int, known: int) -> None:
        self._done += done
        self._known += known
        self._progress(self._done, self._known)


def _batches(instances: Sequence[Instance], most: int) -> Iterator[list[Instance]]:
    """Batches of one SOP class each: an association proposes that class in every transfer syntax there is."""
    classes: dict[str, list[Instance]] = {}
    for one in instances:
        classes.setdefault(one.sop_class, []).append(one)
    for same in classes.values():
        for start in range(0, len(same), most):
            yield same[start : start + most]


def _why(error: Exception) -> str:
    if isinstance(error, Stopped):
        return "stopped before"
    return str(error) if isinstance(error, Declines) else f"the PACS is away: {error}"
