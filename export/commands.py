"""``slicewise export`` and ``quantise``. Importing this is cheap: what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    export = commands.add_parser("export", help="make a model bundle (.onnx) of a training run")
    export.add_argument("folder", type=Path, metavar="RUN", help="the folder that 'slicewise train' filled")
    export.add_argument("--output", type=Path, required=True, metavar="FILE.onnx", help="where to write the bundle")
    export.add_argument(
        "--slices",
        type=Path,
        metavar="PATH",
        help="real slices to compare Keras and ONNX on, a file or a folder (default: the run's validation pictures)",
    )
    export.set_defaults(run=_export)

    quantise = commands.add_parser("quantise", help="make an 8-bit variant of a bundle, which is faster on CPUs")
    quantise.add_argument("bundle", type=Path, metavar="BUNDLE", help="an .onnx file")
    quantise.add_argument("--output", type=Path, required=True, metavar="FILE.onnx", help="where to write the variant")
    quantise.add_argument(
        "--slices",
        type=Path,
        required=True,
        action="append",
        metavar="PATH",
        help="real slices, a file or a folder: ranges are taken from them, and both bundles are compared on them",
    )
    quantise.set_defaults(run=_quantise)


def _export(options: argparse.Namespace) -> int:
    from slicewise.export import verify
    from slicewise.export.backend import load_tensorflow
    from slicewise.export.describe import describe
    from slicewise.export.run import Run
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.model import bundle
    from slicewise.worker.settings import Settings

    run = Run(options.folder)
    description = describe(run)
    if not run.model.is_file():
        raise Misconfigured(f"{run.folder} has no {run.model.name}: finish it with 'slicewise train --resume'")
    paths = [options.slices] if options.slices else [Path(path) for path in run.read()["validation"]]
    rasters = verify.real_slices(paths)
    load_tensorflow(Settings.from_environment().home)
    import keras

    from slicewise.export.convert import convert
    from slicewise.export.doubt import Doubt

    network = keras.models.load_model(run.model, compile=False)
    doubt = Doubt.load(run.doubt)
    found = verify.write(
        convert(network, description, doubt.familiar if doubt else None), options.output, network, rasters
    )
    for batch, difference in found.items():
        print(f"batch {batch:>2}: Keras and ONNX differ by at most {difference:.1e} on {len(rasters)} real slices")
    print(f"{options.output}: sha256 {bundle.sha256(options.output)}")
    if not doubt:
        print(f"no {run.doubt.name} in {run.folder}: the bundle gives every slice a label")
    if not description.metrics:
        print(f"no {run.metrics.name} in {run.folder}: the bundle says nothing of its accuracy")
    return 0


def _quantise(options: argparse.Namespace) -> int:
    from slicewise.export import verify
    from slicewise.export.backend import load_onnx

    load_onnx()
    from slicewise.export import quantise
    from slicewise.worker.model import bundle

    found = quantise.quantise(options.bundle, options.output, verify.real_slices(options.slices, quantise.SLICES))
    print(
        f"{found.labels:.1%} of {found.slices} real slices keep their label; a probability changes by {found.largest:.3f} at most"
    )
    print(f"{options.output}: sha256 {bundle.sha256(options.output)}")
    return 0
