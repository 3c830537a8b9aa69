"""The listening side: who may connect, how many, and the end."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from dataclasses import dataclass

import pynetdicom
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity

from slicewise.worker.intake.receiving.association import Receiving
from slicewise.worker.intake.receiving.callers import Callers
from slicewise.worker.intake.receiving.heading import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from slicewise.worker.intake.receiving.reception import Reception
from slicewise.worker.stopping import Stop

log = logging.getLogger(__name__)

# From a connection to its association; also how long a closed association may linger (ARTIM, PS3.8 9.1.5).
ARTIM_SECONDS = 10.0

# So many connections above the cap are heard, to be told that there is no room.
_SPARE = 8

_STOP_SECONDS = 20.0
_ACCEPT_SECONDS = 0.25


@dataclass(frozen=True)
class Bounds:
    """How much peers may take.

    Parameters
    ----------
    associations
        Most at a time; connections without an association count.
    idle_seconds
        An association that is silent for so long is aborted.
    """

    associations: int = 16
    idle_seconds: float = 60.0


class Server:
    """Accepts connections and gives each an association.

    Parameters
    ----------
    listening
        A listening socket; several processes may share it.
    tls
        Every connection has to shake hands by it.
    """

    def __init__(
        self,
        listening: socket.socket,
        callers: Callers,
        reception: Reception,
        bounds: Bounds,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        listening.setblocking(False)  # another process may be faster
        self._listening, self._callers, self._reception = listening, callers, reception
        self._bounds, self._tls = bounds, tls
        self._associations: list[Receiving] = []
        self._ae = _application(callers, bounds)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self._listening.getsockname()
        return str(name[0]), int(name[1])

    def serve(self, stop: Stop) -> None:
        """Serve until told to stop, then let go of the peers: what is half received is finished first."""
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        while not stop.is_set():
            self._associations = [one for one in self._associations if one.is_alive()]
            if len(self._associations) >= self._bounds.associations + _SPARE:
                # Not accepted: another process may have room, and idle ones end by the ARTIM timer.
                stop.wait(_ACCEPT_SECONDS)
            elif poll.poll(_ACCEPT_SECONDS * 1000):
                self._accept()
        self._end()

    def shutdown_request(self, connection: socket.socket) -> None:
        """Close a connection, as pynetdicom's associations ask their server to."""
        connection.close()

    def _accept(self) -> None:
        try:
            connection, (address, *_) = self._listening.accept()
        except OSError:
            # Another process was faster, or the peer has gone. Out of descriptors: the next ones have to wait.
            time.sleep(0.01)
            return
        if not self._callers.admit(address):
            log.warning("%s: may not connect (--allow)", address)
            connection.close()
            return
        try:
            self._begin(connection, address.partition("%")[0])
        except (OSError, RuntimeError) as error:  # no more descriptors, or no more threads
            log.warning("%s: no association could be begun (%s)", address, type(error).__name__)
            connection.close()

    def _begin(self, connection: socket.socket, address: str) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        association = Receiving(self._ae, self, connection, address, reception=self._reception, tls=self._tls)
        association.bind(evt.EVT_REQUESTED, lambda event: event.assoc.requested())
        association.start()
        self._associations.append(association)

    def _end(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        for association in self._associations:
            association.stop()
        for association in self._associations:
            association.join(max(0.0, deadline - time.monotonic()))
        for association in self._associations:
            if association.is_alive():
                association.abort()
                association.join(1.0)


def _application(callers: Callers, bounds: Bounds) -> ApplicationEntity:
    # Identifiers are names of patients; events are logged with what they carry.
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger(pynetdicom.__name__).setLevel(logging.CRITICAL + 1)
    application = ApplicationEntity(callers.called)
    application.require_called_aet = True
    application.require_calling_aet = list(callers.calling)
    application.maximum_associations = bounds.associations
    application.acse_timeout = ARTIM_SECONDS
    application.network_timeout = bounds.idle_seconds
    application.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    application.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return application
