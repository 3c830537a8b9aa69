"""uvicorn on a listening socket, with patience for nobody."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from slicewise.worker.stopping import Stop

# Connections of one process, uploads and questions together; what is above is answered 503.
_CONNECTIONS = 256

# From the first byte that belongs to no request until there is one: a head that never ends, or a body nobody wants.
_ASTRAY_SECONDS = 30.0

# Longer than most proxies keep an idle connection would be a race that loses requests; they keep theirs for 60 s.
_IDLE_SECONDS = 75

STOP_SECONDS = 20
"""How long uploads that are under way may go on after SIGTERM."""


class Protocol(H11Protocol):
    """uvicorn's, which has no timer for the time before a request and for what comes after its answer."""

    _astray: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin the time before the first request."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Read on; what belongs to no request has its time."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        super().connection_lost(exc)
        self._stop()

    def on_response_complete(self) -> None:
        """Whatever the peer still sends of an answered request has its time."""
        super().on_response_complete()
        self._stop()

    def _look(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._astray is None:
            self._astray = self.loop.call_later(_ASTRAY_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._astray:
            self._astray.cancel()
            self._astray = None


def make(application: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Server:
    """A server that ends by SIGTERM, or by its `should_exit`; what is under way is finished first."""
    # It says what was asked for, with every address.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        )
    )


def run(server: uvicorn.Server, listening: socket.socket, stop: Stop) -> None:
    """Serve until SIGTERM or SIGINT; one that came while this process was still starting is in `stop`."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    if not stop.is_set():
        server.run(sockets=[listening])
