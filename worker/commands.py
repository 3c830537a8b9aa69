"""The worker's sub-commands. Importing this is cheap: what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell
from slicewise.worker.stopping import Stop

if TYPE_CHECKING:
    from slicewise.worker.intake import Submission
    from slicewise.worker.settings import Settings


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    _scan_command(commands, "run", _run, "score files and folders, and print the results")
    submit = _scan_command(commands, "submit", _submit, "hand files and folders to the running workers")
    submit.add_argument("--wait", action="store_true", help="wait for the outcome and print the results")
    submit.add_argument("--lane", choices=("routine", "stat"), default="routine", help="stat overtakes routine")

    up = commands.add_parser("up", help="start Redis, database and worker, and keep them running")
    up.set_defaults(run=_up)

    worker = commands.add_parser("worker", help="run one worker against the broker and database that are set")
    worker.add_argument("--lanes", type=_lanes, default="stat,routine", help="queues to serve (default: %(default)s)")
    worker.add_argument(
        "--concurrency", type=shell.positive, default=1, help="processes, each with its own model (default: 1)"
    )
    worker.set_defaults(run=_worker)

    results = commands.add_parser("results", help="ask the database for results")
    results.add_argument("--status", choices=("labelled", "abstained", "refused"), help="only this")
    for name, text in (
        ("label", "a class name"),
        ("study", "a Study Instance UID"),
        ("series", "a Series Instance UID"),
        ("patient", "a patient as the rows show it, mostly a pseudonym"),
        ("submission", "the id that 'run' and 'submit' print"),
    ):
        results.add_argument(f"--{name}", help=f"only this: {text}")
    results.add_argument("--limit", type=shell.positive, help="at most so many rows")
    results.add_argument("--all-models", action="store_true", help="every model's answers, not only the current one's")
    shell.output_options(results)
    results.set_defaults(run=_results)

    jobs = commands.add_parser("jobs", help="list jobs, newest first")
    jobs.add_argument("--status", choices=("open", "pending", "running", "done", "dead", "dropped"))
    jobs.add_argument("--limit", type=shell.positive, default=50, help="at most so many (default: %(default)s)")
    shell.output_options(jobs)
    jobs.set_defaults(run=_jobs)

    database = commands.add_parser("db", help="look after the database")
    upgrade = database.add_subparsers(title="actions", metavar="ACTION", required=True)
    upgrade.add_parser("upgrade", help="bring the schema to the newest revision").set_defaults(run=_db_upgrade)

    doctor = commands.add_parser("doctor", help="say what is installed, what runs and what to do about the rest")
    doctor.add_argument("--format", choices=("table", "json"), default="table")
    doctor.set_defaults(run=_doctor)


def _scan_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, function: Any, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    shell.scans(parser)
    shell.reserve_option(parser)
    shell.output_options(parser)
    parser.set_defaults(
        run=function, interrupted="what was taken in stays, and goes on with the next 'slicewise run' or 'up'"
    )
    return parser


def _lanes(text: str) -> str:
    if set(text.split(",")) - {"stat", "routine"}:
        raise argparse.ArgumentTypeError("give stat, routine or both, separated by a comma")
    return text


def _run(options: argparse.Namespace) -> int:
    from slicewise.worker import report, service
    from slicewise.worker.intake import sources

    settings = shell.settings()
    # Before anything is started: what a person has mistyped should be said at once.
    sources.check(options.paths)
    report.check(options.output)
    _check_provider(settings)
    with service.serving(settings) as watch:
        if not watch():
            print(f"slicewise: submitting to the service that runs in {settings.home}", file=sys.stderr)
        return _submit_and_wait(settings, options, "run", watch)


def _submit(options: argparse.Namespace) -> int:
    settings = shell.settings()
    if options.wait:
        from slicewise.worker import report, service

        report.check(options.output)
        if settings.embedded and not service.served(settings.home):
            print(f"slicewise: no worker serves {settings.home} now: start 'slicewise up'", file=sys.stderr)
        return _submit_and_wait(settings, options, "submit", lambda: False)
    from slicewise.db.records import Lane
    from slicewise.worker import progress

    submission = progress.submit(
        settings,
        shell.database(settings),
        options.paths,
        "submit",
        lane=Lane(options.lane),
        reserve_bytes=options.reserve * 2**20,
    )
    progress.say_not_taken(submission)
    print(f"submission {submission.uid}: {_taken(submission)}")
    return shell.INCOMPLETE if submission.not_taken else 0


def _submit_and_wait(settings: Settings, options: argparse.Namespace, way: str, watch: Callable[[], object]) -> int:
    from slicewise.db import questions
    from slicewise.db.records import Lane
    from slicewise.worker import progress, report

    database, model = shell.database(settings), shell.current_model(settings)
    lane = Lane(getattr(options, "lane", Lane.ROUTINE))
    submission = progress.submit(
        settings, database, options.paths, way, lane=lane, reserve_bytes=options.reserve * 2**20
    )
    try:
        final = progress.wait(database, submission, model, watch)
    except KeyboardInterrupt:
        print("slicewise: stopping; the worker finishes what it has begun", file=sys.stderr)
        raise
    with database.reading() as session:
        rows = questions.results(session, model=model, submission=submission.uid)
        if shell.for_people(options):
            report.print_results(list(rows), f"submission {submission.uid}")
        else:
            count = report.write(rows, report.RESULT_COLUMNS, shell.machine_format(options), options.output)
            where = f" to {options.output}" if options.output else ""
            print(f"slicewise: {shell.counted(count, 'row')}{where}; submission {submission.uid}", file=sys.stderr)
    progress.say_not_taken(submission)
    if not submission.arrivals and not submission.not_taken:
        print(f"slicewise: no files below {', '.join(map(str, options.paths))}", file=sys.stderr)
    if final.dead:
        print(
            f"slicewise: {shell.counted(final.dead, 'file')} without an outcome, their jobs are dead: see 'slicewise dead list'",
            file=sys.stderr,
        )
    return shell.INCOMPLETE if final.dead or submission.not_taken else 0


def _taken(submission: Submission) -> str:
    return f"{shell.counted(submission.arrivals, 'file')} in {shell.counted(len(submission.jobs), 'job')}"


def _check_provider(settings: Settings) -> None:
    from slicewise.worker.model import session

    session.probe(settings.serving, session.Provider(settings.provider))


def _up(options: argparse.Namespace) -> int:
    import logging

    from slicewise.worker import service
    from slicewise.worker.errors import Misconfigured

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = shell.settings()
    _check_provider(settings)
    stop = Stop().on_signals()
    with service.claimed(settings.home) as ours:
        if not ours:
            raise Misconfigured(
                f"{settings.home} is served already: stop that 'slicewise up', or set another SLICEWISE_HOME"
            )
        with service.Service(settings) as running:
            print(f"slicewise is up in {settings.home}; logs in {settings.logs}; Ctrl-C stops it", flush=True)
            while not stop.wait(1.0):
                running.watch()
    return 0


def _worker(options: argparse.Namespace) -> int:
    from slicewise.worker.queue import app, embedded

    settings = shell.settings()
    database = shell.database(settings)
    if database.url.get_backend_name() == "sqlite" and not settings.embedded:
        print(
            "slicewise: SQLite serves one host; workers on several need SLICEWISE_DATABASE_URL=postgresql+psycopg://…",
            file=sys.stderr,
        )
    database.close()
    if not embedded.answers(settings.broker_url):
        remedy = "'slicewise up' starts one" if settings.embedded else "start it, or correct SLICEWISE_BROKER_URL"
        print(f"slicewise: the broker does not answer: {remedy}; trying again until it does", file=sys.stderr)
    # A worker that cannot score must not start.
    _check_provider(settings)
    app.app.worker_main(
        [
            *("worker", "--pool=prefork", f"--concurrency={options.concurrency}", f"--queues={options.lanes}"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"),
        ]
    )
    return 0


def _results(options: argparse.Namespace) -> int:
    from slicewise.db import questions
    from slicewise.worker import report
    from slicewise.worker.errors import Misconfigured

    settings = shell.settings()
    database = shell.database(settings)
    with database.reading() as session:
        if options.submission and not questions.submission_exists(session, options.submission):
            raise Misconfigured(f"no submission is called {options.submission}: 'slicewise jobs' lists them")
        rows = questions.results(
            session,
            model=None if options.all_models else shell.current_model(settings),
            submission=options.submission,
            status=options.status,
            label=options.label,
            study=options.study,
            series=options.series,
            patient=options.patient,
            limit=options.limit,
        )
        if shell.for_people(options):
            report.print_results(list(rows), "results")
        else:
            report.write(rows, report.RESULT_COLUMNS, shell.machine_format(options), options.output)
    return 0


_JOB_COLUMNS = ("job", "submission", "lane", "status", "files", "attempts", "reason", "created_at", "finished_at")


def _jobs(options: argparse.Namespace) -> int:
    from slicewise.db import questions
    from slicewise.worker import report

    database = shell.database(shell.settings())
    with database.reading() as session:
        rows = questions.jobs(session, status=options.status, limit=options.limit)
        counts = questions.job_counts(session)
    if shell.for_people(options):
        # The submission is an id of the same length: in a terminal it would fold every row.
        shown = tuple(column for column in _JOB_COLUMNS if column != "submission")
        report.print_table([report.short_times(row) for row in rows], shown)
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no jobs yet")
    else:
        report.write(
            ({c: r[c] for c in _JOB_COLUMNS} for r in rows), _JOB_COLUMNS, shell.machine_format(options), options.output
        )
    return 0


def _db_upgrade(options: argparse.Namespace) -> int:
    from slicewise.db.engine import Database

    database = Database(shell.settings().database_url)
    database.upgrade()
    print(f"{database.safe_url} is at schema {database.check()}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from slicewise.worker import doctor

    findings = doctor.examine(shell.settings())
    doctor.print_findings(findings, options.format)
    return 0 if all(finding.passed for finding in findings) else shell.INCOMPLETE
