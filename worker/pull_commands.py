"""``slicewise pull``, and the options by which commands name a PACS. Importing this is cheap: what is needed is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell
from slicewise.worker.stopping import Stop

if TYPE_CHECKING:
    import ssl

    import requests

    from slicewise.worker.intake.pulling.peer import Peer
    from slicewise.worker.intake.pulling.wanted import Wanted
    from slicewise.worker.intake.receiving.reception import Reception


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    pull = commands.add_parser("pull", help="fetch studies from a PACS that have not come yet")
    pacs_options(pull)
    pull.add_argument("--move", type=shell.ae_title, metavar="AET", help="let it send to this receiver (C-MOVE)")
    pull.add_argument("--rate", type=_rate, metavar="N", help="at most so many instances a second")
    pull.add_argument("--night", type=_night, metavar="HH:MM-HH:MM", help="only then, by this host's clock")
    pull.add_argument("--lane", choices=("routine", "stat"), default="routine", help="stat overtakes routine")
    shell.reserve_option(pull)
    shell.output_options(pull)
    pull.set_defaults(run=_pull, interrupted="what came stays; the same command goes on where it was")


def pacs_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which PACS, and what of it."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ae", type=_address, metavar="AET@HOST:PORT", help="a PACS by the DICOM network")
    which.add_argument("--dicomweb", type=_url, metavar="URL", help="a PACS by DICOMweb")
    parser.add_argument("--aet", type=shell.ae_title, default="SLICEWISE", help="own AE title (default: %(default)s)")
    for name, function, text in (
        ("study", "uid", "a Study Instance UID"),
        ("series", "uid", "a Series Instance UID"),
        ("accession", "accession", "an Accession Number"),
    ):
        parser.add_argument(
            f"--{name}", type=_checked(function, text), action="append", default=[], help=f"{text}; may be given again"
        )
    parser.add_argument(
        "--date",
        type=_checked("dates", "a day, or days like 2026-01-01..2026-01-31"),
        default=None,
        help="of the study: a day, FROM..TO, FROM.. or ..TO",
    )
    parser.add_argument(
        "--modality", default="MR", help="of series, with --accession, --date, --csv; '' for any (default: MR)"
    )
    parser.add_argument(
        "--csv", type=shell.path, metavar="FILE", help="a table of StudyInstanceUID, SeriesInstanceUID, AccessionNumber"
    )
    for name, text in (
        ("cert", "certificate to show"),
        ("key", "its private key, where that is not in the same file"),
        ("ca", "who has signed the PACS's certificate; with --ae: speak TLS"),
    ):
        parser.add_argument(f"--tls-{name}", type=shell.path, metavar="PEM", help=text)
    parser.add_argument("--token-file", type=shell.path, metavar="FILE", help="holds a bearer token for --dicomweb")


def _address(text: str) -> str:
    from slicewise.worker.intake.pulling import dimse

    try:
        dimse.address(text, "X")
    except ValueError:
        raise argparse.ArgumentTypeError("give AET@HOST:PORT, like PACS@10.1.2.3:104") from None
    return text


def _url(text: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise argparse.ArgumentTypeError("give a URL, like https://pacs.example/dicom-web")
    if parts.username or parts.password:
        raise argparse.ArgumentTypeError("no password on a command line: put it into ~/.netrc")
    return text


def _checked(function: str, text: str) -> Callable[[str], str]:
    def check(given: str) -> str:
        from slicewise.worker.intake.pulling import wanted

        try:
            return str(getattr(wanted, function)(given))
        except ValueError:
            raise argparse.ArgumentTypeError(f"give {text}") from None

    return check


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 100_000:
        raise argparse.ArgumentTypeError("give a number above 0, of instances a second")
    return rate


def _night(text: str) -> Any:
    from slicewise.worker.intake.pulling.pace import Night

    try:
        return Night(text)
    except ValueError:
        raise argparse.ArgumentTypeError("give two times of the day, like 22:00-06:00") from None


def wanted_from(options: argparse.Namespace) -> list[Wanted]:
    """What the options ask for."""
    from slicewise.worker.intake.pulling import wanted

    return wanted.several(
        studies=options.study,
        series=options.series,
        accessions=options.accession,
        dates=options.date or "",
        table=options.csv,
        modality=options.modality,
    )


def peer_from(options: argparse.Namespace, reception: Reception | None = None) -> Peer:
    """The PACS that the options name.

    Raises
    ------
    Misconfigured
        None, or its certificates cannot be used.
    """
    from slicewise.worker.errors import Misconfigured

    if options.ae:
        from slicewise.worker.intake.pulling import dimse

        at = dimse.address(options.ae, options.aet, _tls(options))
        return dimse.Dimse(at, reception, destination=getattr(options, "move", None))
    if options.dicomweb:
        from slicewise.worker.intake.pulling.dicomweb import Dicomweb

        if getattr(options, "move", None):
            raise Misconfigured("--move goes with --ae: by DICOMweb nothing is sent elsewhere")
        return Dicomweb(options.dicomweb, reception, _session(options))
    raise Misconfigured("which PACS? Give --ae AET@HOST:PORT or --dicomweb URL")


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    import ssl

    from slicewise.worker.errors import Misconfigured

    if not options.tls_ca:
        if options.tls_cert or options.tls_key:
            raise Misconfigured(
                "--tls-cert and --tls-key need --tls-ca with --ae: who has signed the PACS's certificate"
            )
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise Misconfigured(f"the TLS files cannot be used ({error.strerror or type(error).__name__})") from None
    return context


def _session(options: argparse.Namespace) -> requests.Session:
    import requests

    from slicewise.worker.errors import Misconfigured

    session = requests.Session()
    if options.tls_ca:
        session.verify = str(options.tls_ca)
    if options.tls_cert:
        session.cert = (str(options.tls_cert), str(options.tls_key or options.tls_cert))
    if options.token_file:
        try:
            session.headers["Authorization"] = f"Bearer {options.token_file.read_text().strip()}"
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{options.token_file} cannot be read ({type(error).__name__})") from None
    return session


_COLUMNS = ("study_instance_uid", "series_instance_uid", "modality", "at_pacs", "before", "came", "missing", "reason")
_SHOWN = _COLUMNS[1:]


def _pull(options: argparse.Namespace) -> int:
    from collections import Counter
    from dataclasses import asdict

    from slicewise.worker import report

    report.check(options.output)
    wanted = wanted_from(options)
    # What a person has mistyped should be said before anything else.
    peer_from(options)
    stop = Stop().on_signals()
    with ExitStack() as stack:
        pulled = [asdict(one) for one in _pulled(options, wanted, stop, stack)]
    sums = Counter[str]()
    for row in pulled:
        sums.update({name: row[name] for name in ("at_pacs", "before", "came", "missing")})
    if shell.for_people(options):
        report.print_table(pulled, _SHOWN)
    else:
        report.write(pulled, _COLUMNS, shell.machine_format(options), options.output)
    print(
        f"{shell.counted(sums['at_pacs'], 'instance')} at the PACS: {sums['came']} came, {sums['before']} were here before, "
        f"{sums['missing']} did not come",
        file=sys.stdout if shell.for_people(options) else sys.stderr,
    )
    return shell.INCOMPLETE if any(row["missing"] or row["reason"] for row in pulled) else 0


def _pulled(options: argparse.Namespace, wanted: list[Wanted], stop: Stop, stack: ExitStack) -> Any:
    from contextlib import closing

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from slicewise.db.records import Action, Lane
    from slicewise.worker import service
    from slicewise.worker.intake.bells import Bells
    from slicewise.worker.intake.pulling.pace import Pace
    from slicewise.worker.intake.pulling.pull import Pull
    from slicewise.worker.intake.receiving.committer import Committer
    from slicewise.worker.intake.receiving.reception import Reception
    from slicewise.worker.queue import app

    settings = shell.settings()
    database = stack.enter_context(closing(shell.database(settings)))
    ring = stack.enter_context(Bells(app.ring))
    committer = Committer(
        database, ring, job_files=settings.job_files, quiet_seconds=60, lane=Lane(options.lane), way="pull"
    )
    peer = peer_from(options, Reception(settings.spool, committer, reserve_bytes=options.reserve * 2**20))
    shell.audit(database, Action.ASKED, "pull", peer.name)
    if settings.embedded and not service.served(settings.home):
        print(f"slicewise: no worker serves {settings.home} now: start 'slicewise up'", file=sys.stderr)
    console = Console(stderr=True)
    bar = stack.enter_context(
        Progress(
            SpinnerColumn(),
            TextColumn("pulling"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
    )
    task = bar.add_task("", total=None)
    pace = Pace(rate=options.rate, night=options.night, stop=stop, say=lambda text: console.print(f"slicewise: {text}"))
    pull = Pull(peer, database, pace, progress=lambda done, known: bar.update(task, completed=done, total=known))
    return pull.run(wanted)
