"""From files to answers: decode beside the network, score in full batches, one file's answers together.

Knows no queue, no database and no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from slicewise.db.reasons import AbstentionReason, RefusalReason
from slicewise.db.records import NO_MODEL, WHOLE_FILE, Answer, Header, Outcome
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import Patient, Slice, limits, open_scan, to_raster
from slicewise.worker.model.session import BATCH, Model

# Decoded files that may wait for the network: enough to keep it fed, few enough to bound memory.
_LOOKAHEAD = 2 * BATCH

_TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Prepared:
    """A file made ready for the network.

    `frames` holds, for each frame from 1, its ``(150, 150) uint8`` raster or the refusal of that frame; it is empty
    where `refusal` says that the file as a whole cannot be assessed, or `failure` that something broke which
    is no fault of the file's.
    """

    header: Header = field(default_factory=Header)
    patient: Patient | None = None
    frames: tuple[np.ndarray | Refused, ...] = ()
    refusal: Refused | None = None
    failure: str | None = None


Prepare = Callable[[Path], Prepared]
Key = TypeVar("Key")


def prepare(path: Path) -> Prepared:
    """Decode one spooled file. Raises nothing: a refusal and a failure are values here."""
    header, patient = Header(), None
    try:
        size = path.stat().st_size
        if size > limits.MAX_FILE_BYTES:
            raise Refused(RefusalReason.TOO_LARGE, f"{size} bytes; at most {limits.MAX_FILE_BYTES} are read")
        scan = open_scan(path.read_bytes())
        header, patient = scan.header, scan.patient
        return Prepared(header, patient, tuple(_raster_or_refusal(s) for s in scan.slices()))
    except Refused as refusal:
        return Prepared(header, patient, refusal=refusal)
    except Exception as error:  # noqa: BLE001
        # The file's boundary: a disk error or a bug of ours met by one file must not cost its neighbours. It is no
        # refusal: the job dies of it, the reason is kept, and a retry after the repair assesses the file.
        return Prepared(header, failure=where(error))


def _raster_or_refusal(decoded: Slice | Refused) -> np.ndarray | Refused:
    if isinstance(decoded, Refused):
        return decoded
    try:
        return to_raster(decoded)
    except Refused as refusal:
        return refusal


def assess(
    model: Model,
    files: Iterable[tuple[Key, Path]],
    *,
    prepare: Prepare = prepare,
    threads: int = 2,
    tick: Callable[[], None] = lambda: None,
) -> Generator[tuple[Key, Prepared, tuple[Answer, ...]]]:
    """Assess files, in order, batching slices across them.

    Parameters
    ----------
    files
        A key that comes back with the answer, and where the file lies.
    prepare
        How a file is decoded; `slicewise.worker.isolated.prepare` does it in a process of its own.
    tick
        Called after each batch, and every second while a file is waited for: a chance to renew a lease.

    Yields
    ------
    tuple
        Key, what was prepared, and the answers of all the file's frames: one with frame 0 where the file was
        refused, none where preparing it failed.
    """
    batch = _Batch(model)
    waiting: deque[tuple[Key, Prepared, list[int]]] = deque()
    pool = ThreadPoolExecutor(threads, "decode")
    try:
        for key, decoding in _ahead(pool, prepare, files):
            prepared = _awaited(decoding, tick)
            waiting.append((key, prepared, batch.add(prepared)))
            while batch.full:
                batch.score()
                tick()
            while waiting and batch.scored(waiting[0][2]):
                yield _answer(model, batch, *waiting.popleft())
    finally:
        # Where the caller leaves early (a lost lease, the end of its turn), what has not begun never begins.
        pool.shutdown(cancel_futures=True)
    while batch.pending:
        batch.score()
        tick()
    for one in waiting:
        yield _answer(model, batch, *one)


def _ahead(
    pool: ThreadPoolExecutor, prepare: Prepare, files: Iterable[tuple[Key, Path]]
) -> Iterator[tuple[Key, Future[Prepared]]]:
    running: deque[tuple[Key, Future[Prepared]]] = deque()
    for key, path in files:
        running.append((key, pool.submit(prepare, path)))
        if len(running) >= _LOOKAHEAD:
            yield running.popleft()
    yield from running


def _awaited(decoding: Future[Prepared], tick: Callable[[], None]) -> Prepared:
    while not decoding.done():
        wait([decoding], _TICK_SECONDS)
        tick()
    return decoding.result()


class _Batch:
    """Rasters that wait for the network, and what it said of them, by ticket."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rasters: deque[np.ndarray] = deque()
        self._answers: dict[int, tuple[np.ndarray, float]] = {}
        self._given = 0
        self._done = 0

    def add(self, prepared: Prepared) -> list[int]:
        """Queue a file's rasters; their tickets, in the order of its frames."""
        rasters = [frame for frame in prepared.frames if isinstance(frame, np.ndarray)]
        self._rasters.extend(rasters)
        tickets = list(range(self._given, self._given + len(rasters)))
        self._given += len(rasters)
        return tickets

    @property
    def full(self) -> bool:
        return len(self._rasters) >= BATCH

    @property
    def pending(self) -> bool:
        return bool(self._rasters)

    def score(self) -> None:
        """Run one batch, or what there is of one."""
        rasters = [self._rasters.popleft() for _ in range(min(BATCH, len(self._rasters)))]
        for row, distance in zip(*self._model.score(np.stack(rasters)), strict=True):
            self._answers[self._done] = row, float(distance)
            self._done += 1

    def scored(self, tickets: list[int]) -> bool:
        return not tickets or tickets[-1] < self._done

    def take(self, ticket: int) -> tuple[np.ndarray, float]:
        return self._answers.pop(ticket)


def _answer(
    model: Model, batch: _Batch, key: Key, prepared: Prepared, tickets: list[int]
) -> tuple[Key, Prepared, tuple[Answer, ...]]:
    if prepared.refusal:
        # What died under one worker may live under the next: only the model in charge has its answer by that.
        own = prepared.refusal.reason == RefusalReason.KILLED_THE_WORKER
        return key, prepared, (_refused(prepared.refusal, WHOLE_FILE, model.sha256 if own else NO_MODEL),)
    remaining = iter(tickets)
    answers = tuple(
        # A refused frame of a sound file names the model in charge: another model's run must answer it again.
        _refused(frame, number, model.sha256)
        if isinstance(frame, Refused)
        else _judged(model, *batch.take(next(remaining)), number, vouched=prepared.header.vouches)
        for number, frame in enumerate(prepared.frames, start=1)
    )
    return key, prepared, answers


def _refused(refusal: Refused, frame: int, model_sha256: str) -> Answer:
    return Answer(frame, Outcome.REFUSED, model_sha256, reason=refusal.reason, detail=refusal.detail)


def _judged(model: Model, probabilities: np.ndarray, distance: float, frame: int, *, vouched: bool) -> Answer:
    """The answer to a slice; none is given where the network is in doubt."""
    doubt, described = model.doubt(probabilities, distance, vouched=vouched), model.description
    if doubt is RefusalReason.UNFAMILIAR:
        detail = f"more like pictures of nothing than like slices: a distance of {distance:.3g}, at most {described.unfamiliar_above:.3g}"
        return _refused(Refused(doubt, detail), frame, model.sha256)
    best = int(probabilities.argmax())
    why = None
    if doubt is AbstentionReason.STRANGE:
        most = f"{described.unfamiliar_above:.3g}" if vouched else f"{described.unvouched_above:.3g} without a header"
        why = f"much like pictures of nothing: a distance of {distance:.3g}, a label needs at most {most}"
    elif doubt:
        why = f"at most {probabilities[best]:.3f} for one class, a label needs {described.abstain_below:.3f}"
    return Answer(
        frame,
        Outcome.ABSTAINED if doubt else Outcome.LABELLED,
        model.sha256,
        label=None if doubt else model.labels[best],
        probabilities={label: float(p) for label, p in zip(model.labels, probabilities, strict=True)},
        reason=doubt,
        detail=why,
        provider=model.provider,
    )


def where(error: BaseException) -> str:
    """Class, file and line of an exception: enough to find it, and no value in it that could name a person."""
    place, trace = "an unknown place", error.__traceback__
    while trace:
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} in {place}"
