"""Rows as a table for people, as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from slicewise.worker.errors import Misconfigured

FORMATS = ("table", "json", "csv")

RESULT_COLUMNS = (
    "source",
    "content_sha256",
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "patient",
    "frame",
    "status",
    "label",
    "probabilities",
    "reason",
    "detail",
    "model_sha256",
    "preprocess_version",
    "provider",
    "conflict",
    "job",
    "created_at",
)
"""The keys of a result row. Later versions may add some, and never rename these."""

# More rows than this in a terminal help nobody: the summary does.
_MOST_TABLE_ROWS = 200


def check(output: Path | None) -> None:
    """See that an output file can be written, before the work whose answers it shall hold.

    Raises
    ------
    Misconfigured
        It cannot.
    """
    if output:
        _opened(output, "a").close()


def _opened(output: Path, mode: str) -> IO[str]:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return output.open(mode, newline="", encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{output} cannot be written ({error.strerror}): give another --output") from error


def write(rows: Iterable[dict[str, Any]], columns: Sequence[str], form: str, output: Path | None) -> int:
    """Write rows as ``json`` (a list of objects) or ``csv`` to a file or standard output, as they come; how many."""
    with ExitStack() as stack:
        handle = stack.enter_context(_opened(output, "w")) if output else sys.stdout
        return write_to(handle, rows, columns, form)


def write_to(handle: IO[str], rows: Iterable[dict[str, Any]], columns: Sequence[str], form: str) -> int:
    """Write rows as `write` does, to something that is open."""
    return _write_json(rows, handle) if form == "json" else _write_csv(rows, columns, handle)


def _write_json(rows: Iterable[dict[str, Any]], handle: IO[str]) -> int:
    count = 0
    for row in rows:
        handle.write((",\n" if count else "[\n") + json.dumps(row))
        count += 1
    handle.write("\n]\n" if count else "[]\n")
    return count


def _write_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str], handle: IO[str]) -> int:
    writer = csv.writer(handle)
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow(_cell(row[column]) for column in columns)
        count += 1
    return count


def _cell(value: object) -> object:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    # A spreadsheet runs a text cell that begins like a formula.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def print_results(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print result rows and what they add up to."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, options in (
        ("source", {"overflow": "fold"}),
        ("frame", {"justify": "right"}),
        ("status", {}),
        ("label", {}),
        ("probability", {"justify": "right"}),
        ("reason", {"overflow": "fold"}),
    ):
        table.add_column(name, **options)  # type: ignore[arg-type]
    shown = rows[:_MOST_TABLE_ROWS]
    shared = above([row["source"] for row in shown])
    for row in shown:
        table.add_row(*_table_cells(row, shared), style=None if row["status"] == "labelled" else "dim")
    console.print(table, markup=False)
    if len(rows) > _MOST_TABLE_ROWS:
        console.print(f"… and {len(rows) - _MOST_TABLE_ROWS} more: see them all with --format csv or json")
    console.print(summary(rows), markup=False)


def above(sources: Sequence[str]) -> str:
    """The folders that all sources share, but for the last: what is left tells them apart and fits a terminal."""
    if not sources or not all(source.startswith("/") for source in sources):
        return ""  # what came over the network has no folder
    shared = Path(os.path.commonpath([str(Path(source).parent) for source in sources])).parent
    return f"{shared}/".replace("//", "/")


def _table_cells(row: dict[str, Any], shared: str) -> list[str]:
    probability = max(row["probabilities"].values()) if row["probabilities"] else None
    return [
        row["source"].removeprefix(shared),
        str(row["frame"]) if row["frame"] else "",
        row["status"],
        row["label"] or "",
        f"{probability:.3f}" if probability is not None else "",
        f"{row['reason']}: {row['detail']}" if row["reason"] else "",
    ]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """One or two lines: how many of what."""
    status = Counter(row["status"] for row in rows)
    labels = Counter(row["label"] for row in rows if row["label"])
    reasons = Counter(row["reason"] for row in rows if row["status"] == "refused")
    parts = [f"{len(rows)} rows: {_listed(status)}"]
    if labels:
        parts.append(f"labels: {_listed(labels)}")
    if reasons:
        parts.append(f"refused: {_listed(reasons)}")
    parts.append("Research use only: not a medical device.")
    return "\n".join(parts)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def short_times(row: dict[str, Any]) -> dict[str, Any]:
    """A row with whole seconds: enough for a person."""
    return {**row, **{k: row[k][:19].replace("T", " ") for k in row if k.endswith("_at") and row[k]}}


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print plain rows."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column.endswith("_at"))
    for row in rows:
        table.add_row(*(escape("" if row[c] is None else str(row[c])) for c in columns))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
