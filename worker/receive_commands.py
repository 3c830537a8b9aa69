"""``slicewise receive``. Importing this is cheap: what the command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicewise.worker import shell
from slicewise.worker.stopping import Stop

if TYPE_CHECKING:
    import socket
    import ssl

    from slicewise.worker.intake.receiving.callers import Callers
    from slicewise.worker.settings import Settings


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    receive = commands.add_parser("receive", help="take in what a PACS sends over the DICOM network (C-STORE)")
    receive.add_argument("--port", type=shell.port, default=11112, help="where to listen (default: %(default)s)")
    receive.add_argument("--address", default="127.0.0.1", help="on which of this host's (default: %(default)s)")
    receive.add_argument("--aet", type=shell.ae_title, default="SLICEWISE", help="own AE title (default: %(default)s)")
    receive.add_argument(
        "--calling", type=shell.ae_title, action="append", default=[], metavar="AET", help="who may call"
    )
    receive.add_argument(
        "--allow",
        type=_network,
        action="append",
        default=[],
        metavar="CIDR",
        help="an address, or a network, that may connect",
    )
    shell.tls_options(receive, ca="who has signed the peers' certificates: they have to show one")
    for name, default, unit, text in (
        ("associations", 16, "N", "most at a time, in each process"),
        ("processes", 1, "N", "receivers that share the port"),
        ("idle", 60, "SECONDS", "abort an association that is silent for so long"),
        ("gather", 10, "SECONDS", "close the job of a series that has brought nothing for so long"),
    ):
        receive.add_argument(
            f"--{name}", type=shell.positive, default=default, metavar=unit, help=f"{text} (default: {default})"
        )
    shell.reserve_option(receive)
    receive.add_argument("--lane", choices=("routine", "stat"), default="routine", help="stat overtakes routine")
    receive.set_defaults(run=_receive, interrupted="what was answered with success is kept")


def _network(text: str) -> Any:
    from slicewise.worker.intake.receiving.callers import network

    try:
        return network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: give 10.1.2.3 or 10.1.2.0/24") from None


def _receive(options: argparse.Namespace) -> int:
    import logging

    from slicewise.worker import processes

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings, callers, tls = shell.settings(), _callers(options), shell.tls_server(options)
    # Asked here, so that a person hears of it; each receiver opens its own after the fork.
    shell.database(settings).close()
    stop = Stop()
    with processes.listen(options.address, options.port) as listening:
        work = _work(options, settings, listening=listening, callers=callers, tls=tls, stop=stop)
        stop.on_signals()
        _say_hello(options, settings, listening, tls)
        if options.processes == 1:
            work()
        else:
            processes.keep_running(options.processes, work, stop)
    return 0


def _callers(options: argparse.Namespace) -> Callers:
    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.intake.receiving.callers import Callers, check_listening

    try:
        networks = check_listening(options.address, options.allow, client_certificates=options.tls_ca is not None)
    except ValueError:
        raise Misconfigured(f"--address {options.address} is no IP address: give one of this host's") from None
    return Callers(options.aet, tuple(options.calling), networks)


def _work(
    options: argparse.Namespace,
    settings: Settings,
    *,
    listening: socket.socket,
    callers: Callers,
    tls: ssl.SSLContext | None,
    stop: Stop,
) -> Callable[[], None]:
    """What one receiver does."""

    def work() -> None:
        from contextlib import closing

        from slicewise.db.engine import Database
        from slicewise.db.records import Lane
        from slicewise.worker.intake.bells import Bells
        from slicewise.worker.intake.receiving.committer import Committer
        from slicewise.worker.intake.receiving.reception import Reception
        from slicewise.worker.intake.receiving.server import Bounds, Server
        from slicewise.worker.queue import app

        # An object passes through two threads that wait for the disk and for each other in turn; by default Python lets one
        # that calculates keep the others waiting for 5 ms at a time. With this a quarter more objects a second (measured).
        sys.setswitchinterval(0.0005)
        # Not asked again: one that is away just now is said to whoever sends.
        with closing(Database(settings.database_url)) as database, Bells(app.ring) as ring:
            committer = Committer(
                database,
                ring,
                job_files=settings.job_files,
                quiet_seconds=options.gather,
                lane=Lane(options.lane),
            )
            reception = Reception(settings.spool, committer, reserve_bytes=options.reserve * 2**20)
            bounds = Bounds(options.associations, options.idle)
            Server(listening, callers, reception, bounds, tls).serve(stop)

    return work


def _say_hello(
    options: argparse.Namespace, settings: Settings, listening: socket.socket, tls: ssl.SSLContext | None
) -> None:
    from slicewise.worker import service

    if settings.embedded and not service.served(settings.home):
        print(f"slicewise: no worker serves {settings.home} now: start 'slicewise up'", file=sys.stderr)
    address, port = listening.getsockname()[:2]
    secured = "" if tls is None else ", by TLS with certificates" if options.tls_ca else ", by TLS"
    callers = ", ".join(options.calling) or "any caller"
    print(
        f"receiving as {options.aet} on {address} port {port}{secured}, from {callers}; Ctrl-C stops it",
        flush=True,
    )
