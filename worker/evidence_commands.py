"""``slicewise evidence``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell

if TYPE_CHECKING:
    from slicewise.db.records import Answer
    from slicewise.worker.model.session import Model

_COLUMNS = ("source", "content_sha256", "frame", "status", "label", "probability", "reason", "picture", "array")
_FAILED = "failed"

# Of a content's hash, in the name of its picture.
_DIGITS = 16

_SHOWN = ("source", "frame", "status", "label", "probability", "reason", "picture")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    evidence = commands.add_parser("evidence", help="draw where in a slice the answer lies, and write it as an array")
    evidence.add_argument("paths", nargs="+", type=shell.path, metavar="PATH", help="a file, or a folder of files")
    evidence.add_argument("--pictures", type=shell.path, required=True, metavar="DIR", help="where to write them")
    evidence.add_argument(
        "--model", type=shell.path, metavar="BUNDLE", help="an .onnx file (default: the one that serves)"
    )
    shell.output_options(evidence)
    evidence.set_defaults(run=_evidence, interrupted="what was drawn stays")


def _evidence(options: argparse.Namespace) -> int:
    from slicewise.worker import report
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.intake import sources
    from slicewise.worker.model import session

    settings = shell.settings()
    roots = sources.check(options.paths)
    report.check(options.output)
    model = session.load(options.model or settings.serving, session.Provider(settings.provider), settings.threads)
    if not model.explains:
        raise Misconfigured(
            f"the network '{model.description.name}' does not answer by places: give --model a bundle of another network"
        )
    try:
        options.pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{options.pictures} cannot be made ({error.strerror}): give another folder") from error
    rows = list(_drawn(model, [file for root in roots for file in _files(root)], options.pictures))
    if shell.for_people(options):
        shared = report.above([row["source"] for row in rows])
        report.print_table([row | {"source": row["source"].removeprefix(shared)} for row in rows], _SHOWN)
        print(f"{shell.counted(sum(bool(row['picture']) for row in rows), 'picture')} in {options.pictures}")
        print("Research use only: not a medical device.")
    else:
        report.write(rows, _COLUMNS, shell.machine_format(options), options.output)
    return shell.INCOMPLETE if any(row["status"] == _FAILED for row in rows) else 0


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]


def _drawn(model: Model, files: list[Path], folder: Path) -> Iterator[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import track

    from slicewise.worker import pipeline
    from slicewise.worker.model import bundle

    console = Console(stderr=True)
    assessed = pipeline.assess(model, ((path, path) for path in files))
    bar = {"console": console, "transient": True, "disable": not console.is_terminal}
    for path, prepared, answers in track(assessed, "drawing", len(files), **bar):  # type: ignore[arg-type]
        content = bundle.sha256(path)
        plain = dict.fromkeys(_COLUMNS) | {"source": str(path), "content_sha256": content}
        if prepared.failure:
            yield plain | {"status": _FAILED, "reason": prepared.failure}
        for answer in answers:
            frame = prepared.frames[answer.frame - 1] if answer.probabilities else None
            told = {
                "frame": answer.frame,
                "status": answer.status.value,
                "label": answer.label,
                "reason": answer.reason,
            }
            drawn = _draw(model, frame, answer, folder / f"{content[:_DIGITS]}_{answer.frame}")
            yield plain | told | drawn


def _draw(model: Model, frame: object, answer: Answer, name: Path) -> dict[str, Any]:
    import numpy as np

    from slicewise.worker import evidence

    if not isinstance(frame, np.ndarray) or not answer.probabilities:
        return {}
    best = max(answer.probabilities, key=answer.probabilities.__getitem__)
    (said,) = model.evidence(frame[None])
    picture, array = name.with_suffix(".png"), name.with_suffix(".npy")
    np.save(array, said)
    picture.write_bytes(evidence.overlay(frame, evidence.heat(said, model.labels.index(best))))
    return {"probability": round(answer.probabilities[best], 4), "picture": picture.name, "array": array.name}
