"""``slicewise model``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell

if TYPE_CHECKING:
    from slicewise.worker.findings import Finding
    from slicewise.worker.settings import Settings

_COLUMNS = (
    *("source", "content_sha256", "frame", "before", "after"),
    *("status_before", "status_after", "probability_before", "probability_after"),
)
_SHOWN = ("source", "frame", "before", "probability_before", "after", "probability_after")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    model = commands.add_parser(
        "model", help="look at model bundles, try one beside the one that serves, and put one in charge"
    )
    actions = model.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action, function, text in (
        ("show", _show, "print what a bundle says of itself"),
        ("verify", _verify, "load a bundle on the provider that is set and check its answers"),
    ):
        parser = actions.add_parser(action, help=text)
        parser.add_argument("bundle", nargs="?", type=Path, help="an .onnx file (default: the one that serves)")
        parser.set_defaults(run=function)
    listing = actions.add_parser("list", help="list the bundles that are shipped and those that were promoted")
    shell.output_options(listing)
    listing.set_defaults(run=_list)
    promote = actions.add_parser("promote", help="put a bundle in charge, if it passes the gate; workers follow")
    promote.add_argument("bundle", type=Path, help="an .onnx file")
    promote.add_argument(
        "--figures",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what 'slicewise evaluate --output' wrote of it, or of the one that serves",
    )
    promote.add_argument("--anyway", action="store_true", help="even where the gate is not passed")
    promote.set_defaults(run=_promote)
    rollback = actions.add_parser("rollback", help="put the bundle in charge that served before the last promotion")
    rollback.set_defaults(run=_rollback)
    rescore = actions.add_parser("rescore", help="have workers answer by the bundle in charge what it has not seen yet")
    rescore.set_defaults(run=_rescore)
    compare = actions.add_parser("compare", help="score what is stored with another bundle, and list what would change")
    compare.add_argument("bundle", type=Path, help="an .onnx file")
    shell.output_options(compare)
    compare.set_defaults(run=_compare)


def _show(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from slicewise.worker.model import session

    path = options.bundle or shell.settings().serving
    loaded = session.load(path, threads=1)
    print(json.dumps({"file": str(path), "sha256": loaded.sha256, **asdict(loaded.description)}, indent=1))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from slicewise.worker.model import session, verify

    settings = shell.settings()
    path = options.bundle or settings.serving
    findings = verify.check(session.load(path, session.Provider(settings.provider), threads=settings.threads))
    _print(findings)
    return 0 if all(finding.passed for finding in findings) else shell.INCOMPLETE


def _print(findings: Iterable[Finding]) -> None:
    for finding in findings:
        print(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.text}")


_LISTED = ("serves", "name", "variant", "sha256", "accuracy", "measured_on")


def _list(options: argparse.Namespace) -> int:
    from slicewise.worker import report
    from slicewise.worker.model import session
    from slicewise.worker.model.store import SHIPPED, Store

    settings = shell.settings()
    report.check(options.output)
    # One that was promoted may be one that is shipped.
    rows: dict[str, dict[str, Any]] = {}
    serving = settings.serving
    for path in (*SHIPPED, *Store(settings.home).kept(), serving):
        loaded = session.load(path, threads=1)
        measured = loaded.description.metrics.get("validation")
        rows[loaded.sha256] = {
            "serves": path == serving,
            "name": loaded.description.name,
            "variant": loaded.description.variant,
            "sha256": loaded.sha256,
            "accuracy": measured and round(measured["accuracy"], 4),
            "measured_on": measured and measured["split"],
            "file": str(path),
        }
    if shell.for_people(options):
        brief = ({**row, "serves": "*" * row["serves"], "sha256": row["sha256"][:12]} for row in rows.values())
        report.print_table(list(brief), _LISTED)
    else:
        report.write(rows.values(), (*_LISTED, "file"), shell.machine_format(options), options.output)
    return 0


def _promote(options: argparse.Namespace) -> int:
    from slicewise.db.records import Action
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.model import gate, session
    from slicewise.worker.model.store import Store

    settings = _followed()
    database = shell.database(settings)
    provider = session.Provider(settings.provider)
    measured = [_figures(path) for path in options.figures]
    candidate = session.load(options.bundle, provider, threads=settings.threads)
    serving = session.load(settings.serving, provider, threads=settings.threads)
    if candidate.sha256 == serving.sha256:
        raise Misconfigured(f"{candidate.sha256[:12]} serves already")
    findings = gate.check(candidate, serving, measured)
    _print(findings)
    passed = all(finding.passed for finding in findings)
    if not passed and not options.anyway:
        print(f"not promoted: {serving.sha256[:12]} serves on")
        return shell.INCOMPLETE
    promoted = Store(settings.home).promote(options.bundle, candidate.sha256, shell.actor())
    shell.audit(database, Action.PROMOTED, promoted.sha256, None if passed else "though the gate was not passed")
    print(f"{promoted.sha256[:12]} serves, workers follow with their next job; it was {serving.sha256[:12]}")
    print("have it answer what is stored: slicewise model rescore")
    return 0


def _rollback(_options: argparse.Namespace) -> int:
    from slicewise.db.records import Action
    from slicewise.worker.model.store import Store

    settings = _followed()
    database = shell.database(settings)
    undone = Store(settings.home).rollback()
    shell.audit(database, Action.ROLLED_BACK, undone.sha256)
    now = shell.current_model(shell.settings())
    print(f"{now.sha256[:12]} serves, workers follow with their next job; it was {undone.sha256[:12]}")
    return 0


def _rescore(_options: argparse.Namespace) -> int:
    from slicewise.db import writes

    settings = shell.settings()
    database, model = shell.database(settings), shell.current_model(settings)
    with database.writing() as writing:
        count = writes.rescore(writing, shell.actor(), model)
    print(
        f"{shell.counted(count, 'job')} set to wait for {model.sha256[:12]}; a running worker takes them within half a minute"
    )
    return 0


def _followed() -> Settings:
    """The settings, where they leave it to promotions which bundle serves."""
    from slicewise.worker.errors import Misconfigured

    settings = shell.settings()
    if settings.model:
        raise Misconfigured("SLICEWISE_MODEL says which bundle serves: unset it, for this command and for the workers")
    return settings


def _figures(path: Path) -> dict[str, Any]:
    import json

    from slicewise.worker.errors import Misconfigured

    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(read["bundle"], str) and isinstance(read["fingerprint"], str):
            return dict(read, accuracy=float(read["accuracy"]), pictures=int(read["pictures"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise Misconfigured(f"{path} holds no figures of one bundle: 'slicewise evaluate --output' writes them")


def _compare(options: argparse.Namespace) -> int:
    from contextlib import closing

    from slicewise.db import questions
    from slicewise.db.records import Action
    from slicewise.worker import report, shadow
    from slicewise.worker.intake.spool import Spool
    from slicewise.worker.model import session

    settings = shell.settings()
    report.check(options.output)
    candidate = session.load(options.bundle, session.Provider(settings.provider), threads=settings.threads)
    with closing(shell.database(settings)) as database:
        shell.audit(database, Action.ASKED, "model compare", candidate.sha256)
        with database.reading() as reading:
            standing = shadow.standing(questions.results(reading, model=shell.current_model(settings)))
    # Nothing is held open meanwhile: it may take hours.
    found = shadow.compare(candidate, standing, Spool(settings.spool).path, _watched)
    changed = list(shadow.as_rows(found.changed))
    if shell.for_people(options):
        if changed:
            report.print_table(changed, _SHOWN)
    else:
        report.write(changed, _COLUMNS, shell.machine_format(options), options.output)
    said = [f"{shell.counted(found.slices, 'slice')} compared, {len(changed)} would change"]
    said += [f"{shell.counted(found.gone, 'content')} not stored any more"] * bool(found.gone)
    said += [f"{shell.counted(found.failed, 'file')} could not be read now"] * bool(found.failed)
    print("; ".join(said), file=sys.stdout if shell.for_people(options) else sys.stderr)
    return shell.INCOMPLETE if found.gone or found.failed else 0


def _watched(work: Iterable[Any], count: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(work, "scoring", count, console=console, transient=True, disable=not console.is_terminal)
