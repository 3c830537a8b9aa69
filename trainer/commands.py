"""``slicewise train``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicewise.trainer import options as shared
from slicewise.trainer.recipe import NETWORKS, PRECISIONS, SCHEDULES, Augmentation, Recipe, Selection

if TYPE_CHECKING:
    from slicewise.export.run import Run
    from slicewise.trainer.evaluation import Scored


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
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
    train.add_argument(
        "--teacher",
        type=Path,
        metavar="BUNDLE",
        action="append",
        default=[],
        help="learn from the answers of this .onnx file, too (--teaching); give several for what they say together",
    )
    shared.add_split(train, default=Selection.how, text="how validation is held out (default: %(default)s)")

    recipe = train.add_argument_group("recipe", "the defaults are the published ones")
    for name, kind, text in (
        ("epochs", int, "passes over the training pictures"),
        ("batch", int, "pictures in a step"),
        ("learning_rate", float, "of AdamW"),
        ("weight_decay", float, "of AdamW, for kernels; 0 is Adam"),
        ("mixup", float, "alpha of the mixing of two pictures and their labels; 0 is off"),
        ("cutmix", float, "alpha of the boxes of one picture put over another; 0 is off"),
        ("dropout", float, "rate of every dropout layer"),
        ("label_smoothing", float, "share of the label that is spread over all classes"),
        ("strangers", float, "share of a batch that is pictures of nothing, to be unsure of; 0 is off"),
        ("teaching", float, "share of the label that is what the teachers say; 0 is off"),
        ("averaging", float, "momentum of the average of the weights that is kept; 0 is off"),
        ("size", int, "side of the input; only 150 can be exported, smaller ones are cheap to start from"),
        ("patience", int, "stop after so many epochs without a better validation loss; 0 never stops"),
    ):
        shared.add(recipe, name, kind, getattr(Recipe, name), text)
    for name, known, text in (
        ("network", NETWORKS, "what is trained"),
        ("schedule", SCHEDULES, "of the learning rate"),
        ("precision", PRECISIONS, "of the products in training; bfloat16 is for CPUs and GPUs that have it"),
    ):
        recipe.add_argument(
            f"--{name}", choices=known, default=getattr(Recipe, name), help=f"{text} (default: %(default)s)"
        )
    recipe.add_argument(
        "--logit-adjustment",
        type=float,
        nargs=4,
        default=Recipe.logit_adjustment,
        metavar=("GLIOMA", "MENINGIOMA", "NO_TUMOR", "PITUITARY"),
        help="added to each class's logit once trained: more than 0 for a class that is missed too often (default: 0 0 0 0)",
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
        ("jpeg", "share of JPEG's quality"),
    ):
        shared.add(augmentation, name, float, getattr(Augmentation, name), text)
    augmentation.add_argument("--no-flip", dest="flip", action="store_false", help="never mirror left and right")
    train.set_defaults(run=_train, interrupted="go on after the last finished epoch with 'slicewise train --resume'")


def _recipe(options: argparse.Namespace) -> Recipe:
    chosen = {name: getattr(options, name) for name in Recipe.__dataclass_fields__ if name != "augmentation"}
    strayed = {name: getattr(options, name) for name in Augmentation.__dataclass_fields__}
    return Recipe.from_dict({**chosen, "augmentation": strayed})


def _train(options: argparse.Namespace) -> int:
    from slicewise.export.backend import load_tensorflow
    from slicewise.export.run import Run
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.imaging import SIZE
    from slicewise.worker.settings import Settings

    run = Run(options.output)
    recipe, selection = _recipe(options), shared.selection(options)
    if options.resume:
        recipe, selection = _begun_with(run, selection)
    if not selection.roots:
        raise Misconfigured("no pictures to train on: give the folder of a data set")
    load_tensorflow(Settings.from_environment().home)

    from slicewise.trainer import data, evaluation, report, training

    split = data.select(selection)
    trained = training.train(
        split, recipe, options.output, initial=options.initial, teachers=options.teacher, resume=options.resume
    )
    scored = evaluation.Scored(data.LABELS, trained.probabilities, trained.validation, run.read())
    measured = scored.metrics(split.description + evaluation.held_out(scored, split))
    _leave(run, scored, measured, training.read_history(run.history))
    report.print_metrics(measured, f"{run.folder}: validation")
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
    write_json(run.predictions, scored.predictions())
    figures.draw(scored, run.folder)
