"""``slicewise train`` and ``slicewise evaluate``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicewise.trainer.recipe import NETWORKS, SCHEDULES, SPLITS, Augmentation, Recipe, Selection

if TYPE_CHECKING:
    from slicewise.export.run import Run
    from slicewise.trainer.evaluation import Scored


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    _register_train(commands)
    _register_evaluate(commands)


def _register_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="train a network on labelled pictures")
    train.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="a folder that holds one folder per class, with or without Training and Testing",
    )
    train.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder for everything about the run")
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in RUN, by the recipe it was begun with"
    )
    train.add_argument("--initial", type=Path, metavar="FILE", help="start from this model.keras, of any input size")
    _split_options(train, default=Selection.how, text="how validation is held out (default: %(default)s)")

    recipe = train.add_argument_group("recipe", "the defaults are the published ones")
    for name, kind, text in (
        ("epochs", int, "passes over the training pictures"),
        ("batch", int, "pictures in a step"),
        ("learning_rate", float, "of AdamW"),
        ("weight_decay", float, "of AdamW, for kernels; 0 is Adam"),
        ("mixup", float, "alpha of the mixing of two pictures and their labels; 0 is off"),
        ("dropout", float, "rate of every dropout layer"),
        ("label_smoothing", float, "share of the label that is spread over all classes"),
        ("averaging", float, "momentum of the average of the weights that is kept; 0 is off"),
        ("size", int, "side of the input; only 150 can be exported, smaller ones are cheap to start from"),
        ("patience", int, "stop after so many epochs without a better validation loss; 0 never stops"),
    ):
        _option(recipe, name, kind, getattr(Recipe, name), text)
    for name, known, text in (
        ("network", NETWORKS, "what is trained"),
        ("schedule", SCHEDULES, "of the learning rate"),
    ):
        recipe.add_argument(
            f"--{name}", choices=known, default=getattr(Recipe, name), help=f"{text} (default: %(default)s)"
        )
    recipe.add_argument(
        "--one-per-group", action="store_true", help="one picture of each group of near-copies an epoch"
    )

    augmentation = train.add_argument_group("augmentation", "how far a training picture may stray; 0 is off")
    for name, text in (
        ("rotation", "degrees"),
        ("scale", "share of the size"),
        ("shift", "share of the side"),
        ("gain", "brightness, as a spread of log2"),
        ("gamma", "contrast, as a spread of log2"),
        ("bias", "brightness that drifts across the picture, as a spread of log2"),
        ("coarse", "share of the resolution"),
        ("noise", "standard deviation in grey levels"),
    ):
        _option(augmentation, name, float, getattr(Augmentation, name), text)
    augmentation.add_argument("--no-flip", dest="flip", action="store_false", help="never mirror left and right")
    train.set_defaults(run=_train, interrupted="go on after the last finished epoch with 'slicewise train --resume'")


def _register_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a model bundle on labelled pictures")
    evaluate.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a folder that holds one folder per class"
    )
    evaluate.add_argument("--model", type=Path, metavar="BUNDLE", help="an .onnx file (default: the one that serves)")
    _split_options(
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
    evaluate.add_argument("--format", choices=("table", "json"), default="table")
    evaluate.add_argument("--output", type=Path, metavar="FILE", help="write the figures there, as JSON")
    evaluate.add_argument("--figures", type=Path, metavar="DIR", help="draw pictures, and list every prediction, there")
    evaluate.set_defaults(run=_evaluate, interrupted="nothing was written")


def _split_options(parser: argparse.ArgumentParser, default: str | None, text: str) -> None:
    group = parser.add_argument_group("split")
    group.add_argument("--groups", type=Path, metavar="CSV", help="near-copies: path, pooled_group, fold5 and more")
    group.add_argument("--split", choices=SPLITS, default=default, help=text)
    _option(group, "fraction", float, Selection.fraction, "share of each class that validates (random, group)")
    _option(group, "fold", int, Selection.fold, "which fold validates (fold)")
    _option(group, "seed", int, Selection.seed, "of every random choice")


def _option(group: argparse._ArgumentGroup, name: str, kind: type, default: Any, text: str) -> None:
    # The class holds the default, so that it stands in one place.
    group.add_argument(
        f"--{name.replace('_', '-')}", type=kind, default=default, metavar="X", help=f"{text} (default: %(default)s)"
    )


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(
        roots=tuple(str(path.resolve()) for path in options.paths),
        groups=str(options.groups.resolve()) if options.groups else None,
        how=options.split,
        fraction=options.fraction,
        fold=options.fold,
        seed=options.seed,
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    chosen = {name: getattr(options, name) for name in Recipe.__dataclass_fields__ if name != "augmentation"}
    strayed = {name: getattr(options, name) for name in Augmentation.__dataclass_fields__}
    return Recipe(**chosen, augmentation=Augmentation(**strayed))


def _train(options: argparse.Namespace) -> int:
    from slicewise.export.backend import load_tensorflow
    from slicewise.export.run import Run
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.imaging import SIZE
    from slicewise.worker.settings import Settings

    run = Run(options.output)
    recipe, selection = _recipe(options), _selection(options)
    if options.resume:
        recipe, selection = _begun_with(run, selection)
    if not selection.roots:
        raise Misconfigured("no pictures to train on: give the folder of a data set")
    load_tensorflow(Settings.from_environment().home)

    from slicewise.trainer import data, evaluation, training

    split = data.select(selection)
    trained = training.train(split, recipe, options.output, initial=options.initial, resume=options.resume)
    scored = evaluation.Scored(data.LABELS, trained.probabilities, trained.validation, run.read())
    measured = scored.metrics(split.description + evaluation.held_out(scored, split))
    _leave(run, scored, measured, training.read_history(run.history))
    _print_metrics(measured, f"{run.folder}: validation")
    if recipe.size == SIZE:
        print(f"make a bundle of it with: slicewise export {run.folder} --output FILE.onnx")
    else:
        print(f"go on at the size that can be exported with: slicewise train --initial {run.model} --output ANOTHER")
    return 0


def _begun_with(run: Run, asked: Selection) -> tuple[Recipe, Selection]:
    """The recipe of a run that goes on, and its pictures, which may have moved."""
    recorded = run.read()
    print(f"slicewise: going on with the recipe in {run.record}; other recipe options are ignored", file=sys.stderr)
    recipe = Recipe.from_dict(recorded["recipe"])
    if not recorded.get("selection"):
        return recipe, asked
    selection = Selection(**{**recorded["selection"], "roots": tuple(recorded["selection"]["roots"])})
    if asked.roots:
        selection = replace(selection, roots=asked.roots, groups=asked.groups or selection.groups)
    return recipe, selection


def _leave(run: Run, scored: Scored, measured: dict[str, Any], history: list[dict[str, float]]) -> None:
    from slicewise.export.run import write_json
    from slicewise.trainer import figures

    write_json(run.metrics, measured)
    write_json(run.folder / "history.json", history)
    figures.draw_curves(history, run.folder / "curves.png", len(scored.labels))
    _draw(run, scored)


def _draw(run: Run, scored: Scored) -> None:
    from slicewise.export.run import write_json
    from slicewise.trainer import figures

    write_json(run.predictions, scored.predictions())
    figures.draw_confusion(scored, run.folder / "confusion.png")
    figures.draw_classes(scored, run.folder / "classes.png")
    figures.draw_calibration(scored, run.folder / "calibration.png")
    figures.draw_samples(scored, run.folder / "samples.png")
    figures.draw_mistakes(scored, run.folder / "mistakes.png")


def _evaluate(options: argparse.Namespace) -> int:
    from slicewise.export.backend import load_matplotlib
    from slicewise.export.run import Run, make_folder, write_json
    from slicewise.trainer import data, evaluation
    from slicewise.worker import report
    from slicewise.worker.model.session import Provider
    from slicewise.worker.settings import Settings

    settings = Settings.from_environment()
    # Before the work whose answers they shall hold.
    report.check(options.output)
    if options.figures:
        load_matplotlib(settings.home)
        make_folder(options.figures)
    split = data.select(_selection(options)) if options.split else None
    if split:
        examples, words = split.validation, f"validation part: {split.description}"
    else:
        examples = data.find(options.paths, options.groups, every_class=False)
        words = "every picture given, whether or not the network was trained on it"
    if options.apart_from:
        examples = data.apart_from(examples, data.find(options.apart_from, options.groups, every_class=False))
        words += f"; no near-copy in {', '.join(path.name for path in options.apart_from)}"
    scored = evaluation.score(options.model or settings.model, examples, Provider(settings.provider))
    measured = scored.metrics(words + (evaluation.held_out(scored, split) if split else ""))
    if options.figures:
        _draw(Run(options.figures), scored)
    if options.output:
        write_json(options.output, measured)
    if options.format == "json":
        print(json.dumps(measured, indent=1))
    else:
        _print_metrics(measured, str(options.model or settings.model))
    return 0


def _print_metrics(measured: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("true class", "precision", "recall", "pictures", *(f"said {label}" for label in measured["labels"])):
        table.add_column(name, justify="left" if name == "true class" else "right")
    for (label, figures), counts in zip(measured["classes"].items(), measured["confusion"], strict=True):
        shares = (_percent(figures["precision"]), _percent(figures["recall"]))
        table.add_row(label, *shares, str(figures["support"]), *map(str, counts))
    console.print(table)
    low, high = measured["accuracy_95"]
    console.print(f"split: {measured['split']}", soft_wrap=True)
    console.print(
        f"accuracy {_percent(measured['accuracy'])} of {measured['pictures']} pictures "
        f"(95 % interval by groups {_percent(low)} to {_percent(high)}), "
        f"{_percent(measured['accuracy_one_per_group'])} with one picture for each of {measured['groups']} groups",
        soft_wrap=True,
    )
    risk = measured["risk_at_coverage"]["0.95"]
    console.print(
        f"calibration: expected error {measured['expected_calibration_error']:.3f}, Brier {measured['brier']:.3f}, log loss "
        f"{measured['log_loss']:.3f}; {_percent(risk)} of the surest 95 % are wrong",
        soft_wrap=True,
    )
    if doubt := measured["doubt"]:
        withheld = ", ".join(f"{count} {reason}" for reason, count in doubt["withheld_by_reason"].items()) or "none"
        right = f", of which {_percent(doubt['accuracy_of_labels'])} are right" if doubt["coverage"] else ""
        console.print(
            f"labels are given to {_percent(doubt['coverage'])}{right}; withheld: {withheld}",
            soft_wrap=True,
        )
    if measured["refused"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in measured["refused_by_reason"].items())
        console.print(f"refused by imaging and not counted: {measured['refused']} ({reasons})", soft_wrap=True)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"
