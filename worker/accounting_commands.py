"""``slicewise reconcile``, ``explain`` and ``dead``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slicewise.worker import pull_commands, shell


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    reconcile = commands.add_parser(
        "reconcile", help="compare files, or what a PACS has, with the database: has each its outcome?"
    )
    reconcile.add_argument(
        "paths", nargs="*", type=shell.path, metavar="PATH", help="a file, a folder or a zip archive"
    )
    pull_commands.pacs_options(reconcile)
    reconcile.add_argument("--all", action="store_true", help="in the table: the files that have an outcome, too")
    shell.output_options(reconcile)
    reconcile.set_defaults(run=_reconcile)

    explain = commands.add_parser("explain", help="tell what happened to a file, from arrival to result")
    explain.add_argument("name", metavar="NAME", help="a SOP Instance UID, a SHA-256, the id of a job, or a file")
    shell.output_options(explain)
    explain.set_defaults(run=_explain)

    dead = commands.add_parser("dead", help="look after jobs whose attempts are used up")
    actions = dead.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list dead jobs, newest first")
    listing.add_argument("--limit", type=shell.positive, default=50, help="at most so many (default: %(default)s)")
    listing.add_argument("--before", metavar="JOB", help="go on with the jobs older than this one")
    shell.output_options(listing)
    listing.set_defaults(run=_dead_list)
    show = actions.add_parser("show", help="list the files of a job that have no outcome")
    show.add_argument("job", metavar="JOB", help="the id of a job")
    shell.output_options(show)
    show.set_defaults(run=_dead_show)
    for name, function, text in (
        ("retry", _dead_retry, "let dead jobs wait again, with all their attempts"),
        ("drop", _dead_drop, "give dead jobs up: their files stay without an outcome"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("jobs", nargs="*", metavar="JOB", help="the id of a job")
        action.add_argument("--all", action="store_true", help="every dead job")
        action.set_defaults(run=function)


def _reconcile(options: argparse.Namespace) -> int:
    from collections import Counter
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from slicewise.worker import accounting, report

    settings = shell.settings()
    database, model = shell.database(settings), shell.current_model(settings)
    _audit(database, "reconcile")
    states: Counter[Any] = Counter()
    shown: list[dict[str, Any]] = []
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("looking up {task.completed}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        for item in _items(options, database, model, lambda count: bar.advance(task, count)):
            states[item.state] += 1
            settled = item.state in {"labelled", "abstained", "refused"}
            if options.all or not settled or not shell.for_people(options):
                shown.append({**asdict(item), "since": item.since and item.since.isoformat(timespec="seconds")})
    columns = ("source", "content_sha256", "state", "detail", "since", "known_by")
    if shell.for_people(options):
        if shown:
            report.print_table(shown, ("source", "state", "detail", "since"))
        print(
            f"{shell.counted(states.total(), 'file' if options.paths else 'instance')}: {', '.join(f'{count} {state}' for state, count in states.most_common())}"
        )
    else:
        report.write(shown, columns, shell.machine_format(options), options.output)
    return accounting.exit_status(states)


def _items(options: argparse.Namespace, database: Any, model: Any, progress: Any) -> Any:
    from slicewise.worker import accounting
    from slicewise.worker.errors import Misconfigured

    if options.ae or options.dicomweb:
        if options.paths:
            raise Misconfigured("files or a PACS? Give either PATH... or --ae or --dicomweb")
        peer = pull_commands.peer_from(options)
        return accounting.reconcile_peer(peer, pull_commands.wanted_from(options), database, model, progress)
    if not options.paths:
        raise Misconfigured("what is to be compared? Give PATH..., or a PACS by --ae or --dicomweb")
    return accounting.reconcile(options.paths, database, model, progress)


def _explain(options: argparse.Namespace) -> int:
    from slicewise.db import accounting
    from slicewise.worker import report
    from slicewise.worker.errors import Misconfigured

    database = shell.database(shell.settings())
    name = _named(options.name)
    _audit(database, "explain", name)
    with database.reading() as session:
        contents = accounting.contents_named(session, name)
        events = [(content, event) for content in contents for event in accounting.timeline(session, content)]
    if not contents:
        raise Misconfigured(f"nothing is known of {options.name}: was it submitted to this database?")
    rows = [
        {"content_sha256": content, "at": event.at.isoformat(), "event": event.event, "detail": event.detail}
        for content, event in events
    ]
    if shell.for_people(options):
        for content in contents:
            print(content)
            mine = [{**row, "at": row["at"][:19].replace("T", " ")} for row in rows if row["content_sha256"] == content]
            report.print_table(mine, ("at", "event", "detail"))
    else:
        report.write(rows, ("content_sha256", "at", "event", "detail"), shell.machine_format(options), options.output)
    return 0


def _named(name: str) -> str:
    """A file's content, or the name as it is."""
    import hashlib

    from slicewise.worker.errors import Misconfigured

    path = Path(name)
    if not path.is_file():
        return name
    try:
        with path.open("rb") as reading:
            return hashlib.file_digest(reading, "sha256").hexdigest()
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read ({error.strerror})") from error


_DEAD_COLUMNS = ("job", "lane", "files", "attempts", "reason", "created_at", "finished_at")


def _dead_list(options: argparse.Namespace) -> int:
    from slicewise.db import questions
    from slicewise.worker import report

    database = shell.database(shell.settings())
    with database.reading() as session:
        rows = questions.jobs(session, status="dead", limit=options.limit, before=options.before)
        count = questions.job_counts(session).get("dead", 0)
    if shell.for_people(options):
        report.print_table([report.short_times(row) for row in rows], _DEAD_COLUMNS)
        older = f"; older ones: --before {rows[-1]['job']}" if len(rows) == options.limit else ""
        print(f"{shell.counted(count, 'dead job')}{older}")
    else:
        cut = ({column: row[column] for column in _DEAD_COLUMNS} for row in rows)
        report.write(cut, _DEAD_COLUMNS, shell.machine_format(options), options.output)
    return 0


def _dead_show(options: argparse.Namespace) -> int:
    from slicewise.db import questions
    from slicewise.worker import report

    settings = shell.settings()
    database, model = shell.database(settings), shell.current_model(settings)
    _known(database, [options.job])
    with database.reading() as session:
        rows = questions.files_without_outcome(session, options.job, model)
    if shell.for_people(options):
        report.print_table(rows, ("source", "content_sha256"))
        print(f"{shell.counted(len(rows), 'file')} of this job without an outcome")
    else:
        report.write(rows, ("source", "content_sha256"), shell.machine_format(options), options.output)
    return 0


def _dead_retry(options: argparse.Namespace) -> int:
    from slicewise.db import writes

    count = _settle(options, writes.retry)
    print(f"{shell.counted(count, 'dead job')} set to wait again; a running worker takes them within half a minute")
    return 0


def _dead_drop(options: argparse.Namespace) -> int:
    from slicewise.db import writes

    count = _settle(options, writes.drop)
    print(f"{shell.counted(count, 'dead job')} dropped; 'slicewise reconcile' counts their files as dropped")
    return 0


def _settle(options: argparse.Namespace, write: Any) -> int:
    from slicewise.worker.errors import Misconfigured

    if bool(options.jobs) == options.all:
        raise Misconfigured("which ones? Give the ids of dead jobs ('slicewise dead list'), or --all")
    database = shell.database(shell.settings())
    _known(database, options.jobs)
    with database.writing() as session:
        count = int(write(session, shell.actor(), None if options.all else options.jobs))
    if options.jobs and count < len(set(options.jobs)):
        print(f"slicewise: {len(set(options.jobs)) - count} of these jobs are not dead", file=sys.stderr)
    return count


def _known(database: Any, jobs: Sequence[str]) -> None:
    from slicewise.db import questions
    from slicewise.worker.errors import Misconfigured

    with database.reading() as session:
        unknown = questions.unknown_jobs(session, jobs)
    if unknown:
        raise Misconfigured(f"no job is called {', '.join(unknown)}: 'slicewise jobs' lists them")


def _audit(database: Any, question: str, about: str | None = None) -> None:
    from slicewise.db.records import Action

    shell.audit(database, Action.ASKED, question, about)
