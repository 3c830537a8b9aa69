"""What the commands share: settings, database, options, and who is asking. Importing this is cheap."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    from slicewise.db.engine import Database
    from slicewise.db.questions import Model
    from slicewise.db.records import Action
    from slicewise.worker.settings import Settings

INCOMPLETE = 1
"""Exit status of a command that ran but leaves some input without an outcome."""


def settings() -> Settings:
    """The settings of this process."""
    from slicewise.worker.settings import Settings

    return Settings.from_environment()


def database(chosen: Settings) -> Database:
    """The database that is set, at the schema this slicewise needs."""
    from slicewise.db.engine import Database

    opened = Database(chosen.database_url)
    opened.check()
    return opened


def current_model(chosen: Settings) -> Model:
    """Whose answers count: the bundle that serves."""
    return whose_answers(chosen.serving)


def whose_answers(bundle: Path) -> Model:
    """The name that the answers of a bundle are kept under."""
    from slicewise.db.questions import Model
    from slicewise.worker.model import session

    loaded = session.load(bundle, threads=1)
    return Model(loaded.sha256, loaded.description.preprocess_version)


def actor() -> str:
    """Who is at this terminal, for the audit: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database, as in many containers
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def audit(opened: Database, action: Action, subject: str, detail: str | None = None) -> None:
    """Record what whoever is at this terminal did."""
    from slicewise.db import writes

    with opened.writing() as writing:
        writes.audit(writing, actor(), action, subject, detail)


def output_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--output``."""
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--output", type=path, metavar="FILE", help="write there instead of to standard output")


def for_people(options: argparse.Namespace) -> bool:
    """Whether the answer goes to a terminal, as a table."""
    return options.format == "table" and not options.output


def machine_format(options: argparse.Namespace) -> str:
    """``json`` or ``csv``: what was asked for, or what the name of the file says."""
    if options.format != "table":
        return str(options.format)
    return "json" if options.output.suffix == ".json" else "csv"


def positive(text: str) -> int:
    """Type of an option: a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("give a whole number of at least 1")
    return int(text)


def natural(text: str) -> int:
    """Type of an option: a whole number of at least 0."""
    return 0 if text == "0" else positive(text)


def ae_title(text: str) -> str:
    """Type of an option: an application entity's title."""
    from slicewise.worker.intake.receiving import callers

    try:
        return callers.ae_title(text)
    except ValueError:
        raise argparse.ArgumentTypeError("give 1 to 16 printable characters, no backslash") from None


def reserve_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--reserve``, for every way in."""
    parser.add_argument(
        "--reserve", type=natural, default=1024, metavar="MIB", help="leave so much of the disk free (default: 1024)"
    )


def port(text: str) -> int:
    """Type of an option: a TCP port, or 0 for any free one."""
    number = natural(text)
    if number > 65535:
        raise argparse.ArgumentTypeError("give a port, from 1 to 65535 (0: any free one)")
    return number


def tls_options(parser: argparse.ArgumentParser, **more: str) -> None:
    """Add ``--tls-cert`` and ``--tls-key`` for a server, and what else is given."""
    given = {
        "cert": "certificate of this host, with its chain",
        "key": "its private key, where that is not in the same file",
    }
    for name, text in (given | more).items():
        parser.add_argument(f"--tls-{name}", type=path, metavar="PEM", help=text)


def tls_server(options: argparse.Namespace) -> ssl.SSLContext | None:
    """What a server shakes hands by, by `tls_options`; None where no certificate is given.

    Raises
    ------
    Misconfigured
        The files are not there, or do not belong together.
    """
    import ssl

    from slicewise.worker.errors import Misconfigured

    authority = getattr(options, "tls_ca", None)
    if options.tls_cert is None:
        if options.tls_key or authority:
            raise Misconfigured("--tls-key and --tls-ca need --tls-cert, the certificate of this host")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        if authority:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise Misconfigured(
            f"the TLS files cannot be used ({error.strerror or type(error).__name__}): give PEM files that belong together"
        ) from None
    return context


def path(text: str) -> Path:
    """Type of an argument: a path. An empty one, which an unset variable leaves, would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path: is a variable unset?")
    return Path(text)


def scans(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``PATH...``."""
    parser.add_argument("paths", nargs="+", type=path, metavar="PATH", help="a file, a folder or a zip archive")


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
