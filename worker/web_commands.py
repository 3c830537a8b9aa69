"""``slicewise serve`` and ``token``. Importing this is cheap: what a command needs is imported in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from slicewise.worker import shell
from slicewise.worker.stopping import Stop

if TYPE_CHECKING:
    import socket
    import ssl

    from slicewise.worker.settings import Settings
    from slicewise.worker.web.door import Admission

_MIB = 2**20


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-commands."""
    serve = commands.add_parser("serve", help="take in scans by HTTP: STOW-RS, uploads as jobs, and their results")
    serve.add_argument("--port", type=shell.port, default=8900, help="where to listen (default: %(default)s)")
    serve.add_argument("--address", default="127.0.0.1", help="on which of this host's (default: %(default)s)")
    serve.add_argument("--tokens", type=shell.path, metavar="FILE", help="who may ask: lines made by 'slicewise token'")
    shell.tls_options(serve)
    serve.add_argument("--behind-proxy", metavar="ADDRESS", help="only this proxy connects, and ends TLS")
    for name, default, unit, text in (
        ("largest", 16384, "MIB", "most in one request"),
        ("uploads", 16, "N", "most at a time, in each process"),
        ("processes", 1, "N", "servers that share the port"),
        ("silent", 60, "SECONDS", "give up an upload that brings nothing for so long"),
        ("gather", 10, "SECONDS", "close a job whose upload has broken off after so long"),
    ):
        serve.add_argument(
            f"--{name}", type=shell.positive, default=default, metavar=unit, help=f"{text} (default: {default})"
        )
    shell.reserve_option(serve)
    serve.set_defaults(run=_serve, interrupted="what was answered is kept")

    token = commands.add_parser("token", help="make a token for 'slicewise serve': its line to standard output")
    token.add_argument("name", metavar="NAME", help="whose it is, for the audit")
    token.set_defaults(run=_token)


def _token(options: argparse.Namespace) -> int:
    from slicewise.worker.web import tokens

    token, line = tokens.make(options.name)
    print(line, flush=True)
    print(f"slicewise: the token of {options.name}, shown this once: {token}", file=sys.stderr)
    return 0


def _serve(options: argparse.Namespace) -> int:
    import logging

    from slicewise.worker import processes
    from slicewise.worker.web.door import check_listening

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings, admission, tls = shell.settings(), _admission(options), shell.tls_server(options)
    check_listening(options.address, admission, tls=tls is not None)
    # Asked here, so that a person hears of it; each server opens its own after the fork.
    shell.database(settings).close()
    stop = Stop()
    with processes.listen(options.address, options.port) as listening:
        stop.on_signals()
        _say_hello(settings, listening, admission, tls)
        work = _work(options, settings, listening=listening, admission=admission, tls=tls, stop=stop)
        if options.processes == 1:
            work()
        else:
            processes.keep_running(options.processes, work, stop)
    return 0


def _admission(options: argparse.Namespace) -> Admission:
    import ipaddress

    from slicewise.worker.errors import Misconfigured
    from slicewise.worker.web.door import Admission
    from slicewise.worker.web.tokens import Tokens

    proxy = options.behind_proxy
    try:
        proxy = proxy and str(ipaddress.ip_address(proxy))
    except ValueError:
        raise Misconfigured(f"--behind-proxy {proxy} is no IP address: give that of the proxy") from None
    return Admission(Tokens(options.tokens) if options.tokens else None, proxy)


def _work(
    options: argparse.Namespace,
    settings: Settings,
    *,
    listening: socket.socket,
    admission: Admission,
    tls: ssl.SSLContext | None,
    stop: Stop,
) -> Callable[[], None]:
    """What one server does."""

    def work() -> None:
        from contextlib import closing

        from slicewise.db.engine import Database
        from slicewise.db.records import Lane
        from slicewise.worker.intake.bells import Bells
        from slicewise.worker.intake.receiving.committer import Committer
        from slicewise.worker.intake.receiving.reception import Reception
        from slicewise.worker.model.following import Following
        from slicewise.worker.queue import app
        from slicewise.worker.web import server
        from slicewise.worker.web.application import application
        from slicewise.worker.web.body import Bounds
        from slicewise.worker.web.uploads import Uploads

        # Not asked again: one that is away just now is said to whoever sends.
        with closing(Database(settings.database_url)) as database, Bells(app.ring) as ring:

            def reception(way: str, lane: Lane) -> Reception:
                committer = Committer(
                    database, ring, job_files=settings.job_files, quiet_seconds=options.gather, lane=lane, way=way
                )
                return Reception(settings.spool, committer, reserve_bytes=options.reserve * _MIB)

            bounds = Bounds(options.largest * _MIB, silent_seconds=options.silent, uploads=options.uploads)
            following = Following(settings, shell.whose_answers)
            with Uploads(reception, bounds) as uploads:
                served = application(
                    uploads=uploads,
                    database=database,
                    reception=reception("http", Lane.ROUTINE),
                    model=following.now,
                    admission=admission,
                )
                server.run(server.make(served, tls), listening, stop)

    return work


def _say_hello(settings: Settings, listening: socket.socket, admission: Admission, tls: ssl.SSLContext | None) -> None:
    from slicewise.worker import service

    if settings.embedded and not service.served(settings.home):
        print(f"slicewise: no worker serves {settings.home} now: start 'slicewise up'", file=sys.stderr)
    address, port = listening.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    who = "whoever has a token" if admission.tokens else "whoever is on this host"
    print(f"serving {who} at http{'s' if tls else ''}://{host}:{port}; Ctrl-C stops it", flush=True)
