"""``slicewise series`` and ``pseudonym``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys

from slicewise.worker import shell


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    series = commands.add_parser("series", help="list series with what was seen in them, newest first")
    for name, text in (
        ("series", "a Series Instance UID"),
        ("study", "a Study Instance UID"),
        ("patient", "a patient as 'results' shows it"),
    ):
        series.add_argument(f"--{name}", help=f"only this: {text}")
    series.add_argument("--all", action="store_true", help="summaries that late slices have superseded, too")
    series.add_argument("--limit", type=shell.positive, help="at most so many rows")
    shell.output_options(series)
    series.set_defaults(run=_series)

    pseudonym = commands.add_parser("pseudonym", help="say under which pseudonyms patients are stored")
    pseudonym.add_argument("--issuer", default="", help="Issuer of Patient ID, where the scans give one")
    pseudonym.set_defaults(run=_pseudonym)


_COUNTED = ("revision", "files", "labelled", "abstained", "refused", "labels", "verdict")
_COLUMNS = (
    *("series_instance_uid", "study_instance_uid", "patient", *_COUNTED, "rests_on"),
    *("model_sha256", "preprocess_version", "job", "created_at", "superseded_at"),
)
_SHOWN = ("series", *_COUNTED, "created_at", "superseded_at")


def _series(options: argparse.Namespace) -> int:
    from slicewise.db import summaries
    from slicewise.worker import report

    settings = shell.settings()
    database, model = shell.database(settings), shell.current_model(settings)
    with database.reading() as session:
        rows = summaries.summaries(
            session,
            model,
            series=options.series,
            study=options.study,
            patient=options.patient,
            superseded=options.all,
            limit=options.limit,
        )
        if not shell.for_people(options):
            grounds = (
                {
                    **row,
                    # By now: what a superseded summary rested on may have been joined by more.
                    "rests_on": summaries.rests_on(session, model, row["series_instance_uid"], row["verdict"])
                    if row["verdict"] and row["superseded_at"] is None
                    else [],
                }
                for row in list(rows)
            )
            report.write(grounds, _COLUMNS, shell.machine_format(options), options.output)
            return 0
        shown = [
            {
                **report.short_times(row),
                "series": row["series_instance_uid"],
                "labels": ", ".join(f"{count} {label}" for label, count in row["labels"].items()),
            }
            for row in rows
        ]
    columns = _SHOWN if options.all else _SHOWN[:-1]
    report.print_table(shown, columns)
    print(shell.counted(len(shown), "row"))
    return 0


def _pseudonym(options: argparse.Namespace) -> int:
    from slicewise.worker import pseudonyms
    from slicewise.worker.imaging.scan import Patient

    named = pseudonyms.naming(shell.settings())
    # From standard input: what stands on a command line is seen by every user of the machine, and kept by the shell.
    for line in sys.stdin:
        if identifier := line.strip():
            print(named(Patient(identifier, options.issuer)) or "")
    return 0
