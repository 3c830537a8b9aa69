"""``slicewise evaluate``. Importing this is cheap: what the command needs is imported in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from slicewise.trainer import options as shared

if TYPE_CHECKING:
    from slicewise.trainer.data import Example, Split
    from slicewise.trainer.evaluation import Scored
    from slicewise.worker.model.session import Model


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    evaluate = commands.add_parser("evaluate", help="measure a model bundle on labelled pictures")
    evaluate.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a folder that holds one folder per class"
    )
    evaluate.add_argument(
        "--model",
        type=Path,
        metavar="BUNDLE",
        action="append",
        help="an .onnx file (default: the one that serves); given several times, with --split fold, each is scored on the "
        "fold that it held out, and the answers are pooled",
    )
    shared.add_split(
        evaluate, default=None, text="score only what this split holds out for validation (default: every picture)"
    )
    evaluate.add_argument(
        "--apart-from",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="leave out pictures with a near-copy below PATH, by the groups file: what the network was trained on",
    )
    evaluate.add_argument(
        "--nearest",
        action="store_true",
        help="measure the nearest neighbour on thumbnails beside it, which learns nothing: what is to be beaten (needs --split)",
    )
    evaluate.add_argument("--format", choices=("table", "json"), default="table")
    evaluate.add_argument("--output", type=Path, metavar="FILE", help="write the figures there, as JSON")
    evaluate.add_argument("--figures", type=Path, metavar="DIR", help="draw pictures, and list every prediction, there")
    evaluate.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write figures, cost and pictures there, as one page"
    )
    evaluate.set_defaults(run=_evaluate, interrupted="nothing was written")


def _evaluate(options: argparse.Namespace) -> int:
    from slicewise.export.backend import load_matplotlib, load_onnx
    from slicewise.export.run import Run, make_folder, write_json
    from slicewise.trainer import data, evaluation, report
    from slicewise.worker import report as files
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.model import session
    from slicewise.worker.settings import Settings

    settings = Settings.from_environment()
    if options.nearest and not options.split:
        raise Misconfigured("the nearest neighbour is sought among what a split leaves for training: give --split")
    # Before the work whose answers they shall hold.
    files.check(options.output)
    files.check(options.report)
    if options.figures or options.report:
        load_matplotlib(settings.home)
    if options.report:
        load_onnx()
    if options.figures:
        make_folder(options.figures)
    bundles = options.model or [settings.serving]
    models = [session.load(path, session.Provider(settings.provider)) for path in bundles]
    splits = _splits(options, models)
    asked = _examples(options, splits)
    parts = [evaluation.score(model, examples) for model, examples in zip(models, asked, strict=True)]
    scored = evaluation.pool(parts)
    measured = scored.metrics(_words(options, scored, splits))
    measured["fingerprint"] = data.census([example for examples in asked for example in examples])["fingerprint"]
    measured["bundle"] = models[0].sha256 if len(models) == 1 else None
    measured["strangers"] = evaluation.on_strangers(models[0], scored.rasters)
    measured |= _beside(options, scored, parts, splits)
    title = ", ".join(map(str, bundles))
    if options.report:
        measured["cost"] = _cost(bundles[0], scored, settings.provider)
    if options.figures:
        write_json(Run(options.figures).predictions, scored.predictions())
    if options.figures or options.report:
        _draw(options, scored, measured, title)
    if options.output:
        write_json(options.output, measured)
    if options.format == "json":
        print(json.dumps(measured, indent=1))
    else:
        report.print_metrics(measured, title)
    return 0


def _draw(options: argparse.Namespace, scored: Scored, measured: dict[str, Any], title: str) -> None:
    """Draw once, for whoever wants it: the folder, the page or both."""
    from slicewise.trainer import figures, report

    with ExitStack() as scratch:
        folder = options.figures or Path(scratch.enter_context(TemporaryDirectory()))
        pictures = figures.draw(scored, folder)
        if options.report:
            report.write_page(measured, title, pictures, options.report)


def _splits(options: argparse.Namespace, models: Sequence[Model]) -> list[Split]:
    """For each bundle the split that it is measured by; empty where every picture given is scored."""
    from slicewise.trainer import data, evaluation

    if len(models) > 1:
        return evaluation.folds([model.description.training for model in models], shared.selection(options))
    return [data.select(shared.selection(options))] if options.split else []


def _examples(options: argparse.Namespace, splits: Sequence[Split]) -> list[list[Example]]:
    from slicewise.trainer import data

    found = [split.validation for split in splits]
    found = found or [data.find(options.paths, options.groups, every_class=False)]
    if options.apart_from:
        others = data.find(options.apart_from, options.groups, every_class=False)
        found = [data.apart_from(examples, others) for examples in found]
    return found


def _words(options: argparse.Namespace, scored: Scored, splits: Sequence[Split]) -> str:
    """Which pictures these are."""
    from slicewise.trainer import data, evaluation

    if len(splits) > 1:
        count = "all" if len(splits) == data.FOLDS else f"{len(splits)} of"
        words = f"group-disjoint, {count} {data.FOLDS} folds, each answered by the network that held it out"
    elif splits:
        words = f"validation part: {splits[0].description}"
    else:
        words = "every picture given, whether or not the network was trained on it"
    if options.apart_from:
        words += f"; no near-copy in {', '.join(path.name for path in options.apart_from)}"
    return words + (evaluation.held_out(scored, splits[0]) if len(splits) == 1 else "")


def _beside(
    options: argparse.Namespace, scored: Scored, parts: Sequence[Scored], splits: Sequence[Split]
) -> dict[str, Any]:
    """What the figures are to be compared with."""
    import numpy as np

    from slicewise.trainer import baseline, data, evaluation

    found: dict[str, Any] = {}
    if splits and splits[0].leaky and options.groups:
        found["near_copies"] = evaluation.near_copies(scored, splits[0].training)
    if options.nearest:
        right = [
            baseline.nearest(data.rasters(split.training), part.rasters)
            for split, part in zip(splits, parts, strict=True)
        ]
        found["nearest_neighbour"] = baseline.figures(np.concatenate(right), scored.rasters)
    if len(parts) > 1:
        found["adjusted"] = evaluation.adjusted(scored)
    if options.split == "random":
        found["published"] = baseline.PAPER
    return found


def _cost(bundle: Path, scored: Scored, provider: str) -> dict[str, Any]:
    from slicewise.export.cost import cost

    speed = len(scored.rasters.examples) / scored.seconds
    return {**asdict(cost(bundle)), "slices_per_second": speed, "provider": provider}
