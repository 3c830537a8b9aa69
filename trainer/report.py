"""The figures of an evaluation, for people: on a terminal, and as one page with pictures."""

from __future__ import annotations

import base64
import html
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from slicewise.export.run import in_one_step

_WIDTH = 140

# rich fills in the braces.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>TITLE</title>
<style>body {{ max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }} pre {{ overflow-x: auto; }} img {{ max-width: 100%; }}</style>
<body>
<p>Research use only. Not a medical device.</p>
<pre>{code}</pre>
PICTURES
</body>
</html>
"""


def write_page(measured: dict[str, Any], title: str, pictures: Sequence[Path], path: Path) -> None:
    """What `print_metrics` prints and pictures, in one HTML file that needs no other."""
    console = Console(file=io.StringIO(), record=True, width=_WIDTH, highlight=False, markup=False)
    print_metrics(measured, title, console)
    shown = [
        f'<img alt="{picture.stem}" src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}">'
        for picture in pictures
    ]
    page = console.export_html(code_format=_PAGE, inline_styles=True)
    page = page.replace("TITLE", html.escape(title), 1).replace("PICTURES", "\n".join(shown), 1)
    with in_one_step(path) as partial:
        partial.write_text(page, encoding="utf-8")


def print_metrics(measured: dict[str, Any], title: str, console: Console | None = None) -> None:
    """Print what `slicewise.trainer.evaluation.Scored.metrics` measured, and what was added to it."""
    console = console or Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in (
        "true class",
        "precision",
        "recall",
        "95 % interval",
        "pictures",
        *(f"said {label}" for label in measured["labels"]),
    ):
        table.add_column(name, justify="left" if name == "true class" else "right")
    for (label, figures), counts in zip(measured["classes"].items(), measured["confusion"], strict=True):
        shares = (_percent(figures["precision"]), _percent(figures["recall"]))
        table.add_row(label, *shares, _interval(figures["recall_95"]), str(figures["support"]), *map(str, counts))
    console.print(table)
    for line in _lines(measured):
        console.print(line, soft_wrap=True)


def _lines(measured: dict[str, Any]) -> Iterator[str]:
    """What is said below the table."""
    yield f"split: {measured['split']}"
    yield (
        f"accuracy {_percent(measured['accuracy'])} of {measured['pictures']} pictures "
        f"(95 % interval by groups {_interval(measured['accuracy_95'])}), "
        f"{_percent(measured['accuracy_one_per_group'])} with one picture for each of {measured['groups']} groups"
    )
    risk = measured["risk_at_coverage"]["0.95"]
    yield (
        f"calibration: expected error {measured['expected_calibration_error']:.3f}, Brier {measured['brier']:.3f}, log loss "
        f"{measured['log_loss']:.3f}; {_percent(risk)} of the surest 95 % are wrong"
    )
    if len(sets := measured["sets"]) > 1:
        yield _each(sets)
    if doubt := measured["doubt"]:
        withheld = ", ".join(f"{count} {reason}" for reason, count in doubt["withheld_by_reason"].items()) or "none"
        right = f", of which {_percent(doubt['accuracy_of_labels'])} are right" if doubt["coverage"] else ""
        yield f"labels are given to {_percent(doubt['coverage'])}{right}; withheld: {withheld}"
    if found := measured.get("strangers"):
        yield f"pictures of nothing that imaging lets through: {found['labelled']} of {found['pictures']} would be labelled"
    for name, found in measured.get("near_copies", {}).items():
        each = f" ({_each(found['sets'])})" if len(found["sets"]) > 1 else ""
        yield f"{found['pictures']} pictures {name} a near-copy among those trained on: {_percent(found['accuracy'])} right{each}"
    if found := measured.get("nearest_neighbour"):
        yield f"nearest neighbour on 48x48 thumbnails, which learns nothing: {_percent(found['accuracy'])} right ({_interval(found['accuracy_95'])})"
    if found := measured.get("adjusted"):
        added = ", ".join(f"{label} {value:+.2f}" for label, value in found["added"].items())
        recalls = ", ".join(f"{label} {_percent(share)}" for label, share in found["recall"].items())
        yield f"with logits adjusted as the other folds ask for ({added}): {_percent(found['accuracy'])} right; {recalls}"
    if published := measured.get("published"):
        classes = ", ".join(
            f"{label} {figures['precision']:.0%} {figures['recall']:.0%}"
            for label, figures in published["classes"].items()
        )
        yield f"the paper, by such a split of its own: {_percent(published['accuracy'])}; precision and recall: {classes}"
    if cost := measured.get("cost"):
        yield f"cost: {cost['parameters']:,} parameters, {cost['operations'] / 1e9:.2f} GFLOP a slice, {cost['slices_per_second']:.0f} slices/s here on {cost['provider']}"
    if measured["refused"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in measured["refused_by_reason"].items())
        yield f"refused by imaging and not counted: {measured['refused']} ({reasons})"


def _each(sets: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_percent(found['accuracy'])} of {found['pictures']}" for name, found in sets.items())


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _interval(found: list[float] | None) -> str:
    return "none" if found is None else f"{_percent(found[0])} to {_percent(found[1])}"
