"""What is asked of a PACS."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slicewise.worker.errors import Misconfigured

_COLUMNS = {
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series",
    "AccessionNumber": "accession",
    "StudyDate": "dates",
}


@dataclass(frozen=True)
class Wanted:
    """Studies or series that have all of this; empty means any.

    Parameters
    ----------
    study, series
        Study and Series Instance UID.
    accession
        Accession Number.
    dates
        Study Date or a range of it, as a query has it (PS3.4 C.2.2.2.5): ``20260101``, ``20260101-20260131``, ``20260101-``.
    modality
        Of the series.
    """

    study: str = ""
    series: str = ""
    accession: str = ""
    dates: str = ""
    modality: str = ""

    @property
    def name(self) -> str:
        """What a person asked for, to name what was not found."""
        return self.series or self.study or (f"accession {self.accession}" if self.accession else self.dates)


def uid(text: str) -> str:
    """A UID (PS3.5 9.1).

    Raises
    ------
    ValueError
        It is none.
    """
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) or len(text) > 64:
        raise ValueError(text)
    return text


def accession(text: str) -> str:
    """An accession number: 1 to 16 characters (SH, PS3.5 6.2), and no wildcard: one would ask for everything.

    Raises
    ------
    ValueError
        It is none.
    """
    if not re.fullmatch(r"[^\\*?\x00-\x1f]{1,16}", text.strip()):
        raise ValueError(text)
    return text.strip()


def dates(text: str) -> str:
    """A date or a range, which may be open at one end: ``2026-01-01``, ``20260101-20260131``, ``2026-01-01..``.

    Raises
    ------
    ValueError
        It is none.
    """
    from datetime import datetime

    digits = r"(\d{4}-?\d\d-?\d\d)?"
    found = re.fullmatch(rf"{digits}(-|\.\.)?{digits}", text.strip())
    if not found or not (found[1] or found[3]):
        raise ValueError(text)
    first, last = ((found[n] or "").replace("-", "") for n in (1, 3))
    for day in filter(None, (first, last)):
        datetime.strptime(day, "%Y%m%d")  # noqa: DTZ007 (a day of the hospital's own calendar)
    if first and last and first > last:
        raise ValueError(text)
    return f"{first}-{last}" if found[2] else first


def from_csv(path: Path, modality: str) -> list[Wanted]:
    """Read a table of what is wanted: one study or series in each row.

    Its columns are called as in DICOM: ``StudyInstanceUID``, ``SeriesInstanceUID``, ``AccessionNumber``, ``StudyDate``; others are left alone.

    Raises
    ------
    Misconfigured
        It cannot be read, has none of these columns, or a row is wrong; the message names its line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as reading:
            table = csv.DictReader(reading)
            if not set(table.fieldnames or ()) & set(_COLUMNS):
                raise Misconfigured(f"{path} has no column called {', '.join(_COLUMNS)}: name one in its first line")
            return [_row(row, f"{path}, line {table.line_num}", modality) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Misconfigured(f"{path} cannot be read as CSV ({type(error).__name__})") from None


_CHECKS = {"study": uid, "series": uid, "accession": accession, "dates": dates}


def _row(row: dict[str, str | None], where: str, modality: str) -> Wanted:
    given = {field: (row.get(column) or "").strip() for column, field in _COLUMNS.items()}
    found = {}
    for field, text in given.items():
        try:
            found[field] = _CHECKS[field](text) if text else ""
        except ValueError:
            # The value stays out of the message: in a wrong column it could be a name.
            raise Misconfigured(f"{where}: the value for {field} is none") from None
    if not any(found.values()):
        raise Misconfigured(f"{where}: nothing is asked for: it would be everything")
    return Wanted(**found, modality=modality)


def several(
    *,
    studies: Sequence[str] = (),
    series: Sequence[str] = (),
    accessions: Sequence[str] = (),
    dates: str = "",
    table: Path | None = None,
    modality: str = "",
) -> list[Wanted]:
    """Everything that the options of a command ask for, each once.

    Raises
    ------
    Misconfigured
        Nothing is asked for.
    """

    def found() -> Iterator[Wanted]:
        yield from (Wanted(study=one) for one in studies)
        yield from (Wanted(series=one) for one in series)
        yield from (Wanted(accession=one, modality=modality) for one in accessions)
        if dates:
            yield Wanted(dates=dates, modality=modality)
        if table:
            yield from from_csv(table, modality)

    wanted = list(dict.fromkeys(found()))
    if not wanted:
        raise Misconfigured("what is wanted? Give --study, --series, --accession, --date or --csv")
    return wanted
