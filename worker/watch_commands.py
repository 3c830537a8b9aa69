"""``slicewise watch``. Importing this is cheap: what the command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell
from slicewise.worker.stopping import Stop

if TYPE_CHECKING:
    from slicewise.db.engine import Database
    from slicewise.worker.intake.watch import Watch
    from slicewise.worker.settings import Settings

EXIT_OCCUPIED = 2
"""Another watcher has the folder."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    watch = commands.add_parser("watch", help="take in what is put into folders, as soon as it is complete")
    watch.add_argument("folders", nargs="+", type=shell.path, metavar="DIR", help="a folder to watch, with those in it")
    watch.add_argument(
        "--after",
        choices=("move", "keep"),
        default="move",
        help="move files to done/ and refused/ below DIR, or leave them where they are (default: %(default)s)",
    )
    watch.add_argument("--once", action="store_true", help="take what is there now, and end")
    watch.add_argument("--lane", choices=("routine", "stat"), default="routine", help="stat overtakes routine")
    for name, default, text in (
        ("quiet", 5.0, "take a file when nothing about it has changed for so long"),
        ("rescan", 30.0, "look through everything every so often"),
        ("gather", 10.0, "close a folder's job when it has brought nothing for so long"),
    ):
        watch.add_argument(
            f"--{name}", type=_seconds, default=default, metavar="SECONDS", help=f"{text} (default: {default:g})"
        )
    shell.reserve_option(watch)
    watch.add_argument("--no-events", action="store_true", help="only look, do not listen: for network shares")
    watch.set_defaults(run=_watch, interrupted="what was taken in stays, the rest lies where it was")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError("give seconds, more than 0 and at most 86400")
    return seconds


def _watch(options: argparse.Namespace) -> int:
    import logging
    import threading

    from slicewise.worker.intake.tree import Occupied

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = shell.settings()
    database = shell.database(settings)
    # A listening thread that breaks would quote paths; without it, everything is still found by looking.
    threading.excepthook = lambda broken: logging.getLogger(__name__).error(
        "a thread broke off: %s", broken.exc_type.__name__
    )
    stop = Stop().on_signals()
    try:
        with ExitStack() as stack:
            watches = _watches(options, settings, database, stack)
            _say_hello(options, settings)
            _go_on(options, watches, stop)
    except Occupied as error:
        print(f"slicewise: {error}", file=sys.stderr)
        return EXIT_OCCUPIED
    finally:
        database.close()
    return _say_sum(options, watches)


def _watches(options: argparse.Namespace, settings: Settings, database: Database, stack: ExitStack) -> list[Watch]:
    from slicewise.db import writes
    from slicewise.db.records import Lane
    from slicewise.worker.intake.bells import Bells
    from slicewise.worker.intake.copying import Copier
    from slicewise.worker.intake.drop import WAY, Drop
    from slicewise.worker.intake.gathering import Gathering
    from slicewise.worker.intake.watch import Pace, Watch
    from slicewise.worker.queue import app

    watches = []
    ring = stack.enter_context(Bells(app.ring))
    options.submission = writes.uuid7() if options.once else None
    for number, tree in enumerate(_trees(options, settings, stack), start=1):
        gathering = Gathering(
            way=WAY,
            sender=shell.actor(),
            lane=Lane(options.lane),
            job_files=settings.job_files,
            quiet_seconds=options.gather,
            submission=options.submission,
        )
        drop = Drop(
            tree,
            Copier(tree, settings.spool, options.reserve * 2**20),
            database=database,
            gathering=gathering,
            ring=ring,
            sender=shell.actor(),
            move=options.after == "move",
        )
        watch = Watch(
            tree,
            drop,
            Pace(options.quiet, options.rescan),
            number=number,
            listen=not options.no_events,
            once=options.once,
        )
        watches.append(stack.enter_context(watch))
    return watches


def _trees(options: argparse.Namespace, settings: Settings, stack: ExitStack) -> list[Any]:
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.intake.drop import DONE, REFUSED
    from slicewise.worker.intake.tree import Tree

    trees = []
    moving = options.after == "move"
    for folder in options.folders:
        root = folder.absolute()
        if not root.is_dir():
            raise Misconfigured(f"{root} is no folder: make it, or mount it, first")
        try:
            tree = stack.enter_context(Tree(root, settings.home / "watching", (DONE, REFUSED) if moving else ()))
        except OSError as error:
            raise Misconfigured(f"{root} cannot be watched ({error.strerror})") from None
        if moving:
            try:
                tree.prepare(DONE, REFUSED)
            except OSError as error:
                raise Misconfigured(
                    f"nothing can be moved within {root} ({error.strerror}): let this user write there, or give --after keep"
                ) from None
        trees.append(tree)
    return trees


def _say_hello(options: argparse.Namespace, settings: Settings) -> None:
    from slicewise.worker import service

    if settings.embedded and not service.served(settings.home):
        print(f"slicewise: no worker serves {settings.home} now: start 'slicewise up'", file=sys.stderr)
    if not options.once:
        where = ", ".join(str(folder.absolute()) for folder in options.folders)
        after = "moved to done/" if options.after == "move" else "left there"
        print(
            f"watching {where}: what is quiet for {options.quiet:g} s is taken and {after}; Ctrl-C stops it",
            flush=True,
        )


def _go_on(options: argparse.Namespace, watches: list[Watch], stop: Stop) -> None:
    pause = min(0.5, options.quiet / 4)
    while not stop.is_set() and not all(watch.finished for watch in watches):
        for watch in watches:
            if not stop.is_set():
                watch.turn()
        stop.wait(pause)
    for watch in watches:
        # Stopped before it was finished.
        watch.sum.left += watch.waiting
        watch.end()


def _say_sum(options: argparse.Namespace, watches: list[Watch]) -> int:
    if not options.once:
        return 0
    taken, refused, left = (
        sum(getattr(watch.sum, name) for watch in watches) for name in ("contents", "refused", "left")
    )
    more = [f"{shell.counted(refused, 'file')} refused"] * bool(refused)
    more += [f"{shell.counted(left, 'file')} left where they were"] * bool(left)
    print(f"submission {options.submission}: {', '.join([shell.counted(taken, 'file'), *more])}")
    return shell.INCOMPLETE if refused or left else 0
