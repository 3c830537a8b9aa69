"""A candidate's answers beside those that stand: what would change if it served. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicewise.worker import pipeline
from slicewise.worker.model.session import Model

Said = tuple[str, str | None, float | None]
"""Status, label or reason, and the largest probability."""


@dataclass(frozen=True)
class Change:
    """A slice that a candidate answers otherwise; `before` is None for a frame that has no answer yet."""

    source: str
    content_sha256: str
    frame: int
    before: Said | None
    after: Said


@dataclass
class Comparison:
    """What was compared: slices, those that change, and contents whose pixels are not there any more."""

    slices: int = 0
    changed: list[Change] = field(default_factory=list)
    gone: int = 0
    failed: int = 0


@dataclass
class Standing:
    """The answers to one content: its first source, and what is said of each frame."""

    source: str
    frames: dict[int, Said] = field(default_factory=dict)


def standing(rows: Iterable[Mapping[str, Any]]) -> dict[str, Standing]:
    """The answers that stand, by content.

    Parameters
    ----------
    rows
        Of one model, as `slicewise.db.questions.results` yields them.
    """
    found: dict[str, Standing] = {}
    for row in rows:
        one = found.setdefault(row["content_sha256"], Standing(row["source"]))
        one.frames[row["frame"]] = _said(**{key: row[key] for key in _KEYS})
    return found


def compare(
    candidate: Model,
    stand: Mapping[str, Standing],
    spooled: Callable[[str], Path],
    watching: Callable[[Iterable[Any], int], Iterable[Any]] = lambda work, _count: work,
) -> Comparison:
    """Score stored contents with a candidate, and see which answers change.

    Parameters
    ----------
    spooled
        Where a content lies.
    watching
        Shows progress: given what is worked through and how many contents there are.
    """
    there = [content for content in stand if spooled(content).is_file()]
    found = Comparison(gone=len(stand) - len(there))
    assessed = pipeline.assess(candidate, ((content, spooled(content)) for content in there))
    for content, prepared, answers in watching(assessed, len(there)):
        found.failed += prepared.failure is not None
        for answer in answers:
            found.slices += 1
            after = _said(answer.status.value, answer.label, answer.reason, answer.probabilities)
            before = stand[content].frames.get(answer.frame)
            if before is None or before[:2] != after[:2]:
                found.changed.append(Change(stand[content].source, content, answer.frame, before, after))
    return found


_KEYS = ("status", "label", "reason", "probabilities")


def _said(status: str, label: str | None, reason: str | None, probabilities: Mapping[str, float] | None) -> Said:
    return status, label or reason, max(probabilities.values()) if probabilities else None


def as_rows(changed: Iterable[Change]) -> Iterator[dict[str, Any]]:
    """Changes as rows of plain values."""
    for one in changed:
        row: dict[str, Any] = {"source": one.source, "content_sha256": one.content_sha256, "frame": one.frame}
        for when, said in (("before", one.before), ("after", one.after)):
            status, answer, probability = said or (None, None, None)
            row |= {
                when: answer,
                f"status_{when}": status,
                f"probability_{when}": probability and round(probability, 4),
            }
        yield row
