"""pynetdicom's upper layer (PS3.8), made safe against a peer that has not said yet who it is.

What is changed: a PDU's claimed length is checked before anything is buffered (pynetdicom 3.0.4 reads whatever 4 bytes
can claim), a PDU has to come to its end in time, a peer that does not wait for its answers is not read from, and nothing
polls: an idle association of pynetdicom wakes up 2,000 times a second.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

if TYPE_CHECKING:
    import socket

    from pynetdicom.association import Association

log = logging.getLogger(__name__)

MAX_PDU_BYTES = 256 * 2**10
"""Longest PDV list that is taken in one P-DATA-TF (PS3.8 D.1), as the negotiation says."""

# Of an A-ASSOCIATE-RQ: 128 presentation contexts with 40 transfer syntaxes each take about 150 kB.
_MAX_REQUEST_BYTES = 256 * 2**10
_MAX_CONTROL_BYTES = 1024

_P_DATA_TF = 0x04

# By type (PS3.8 9.3). A-ASSOCIATE-AC and -RJ are nothing that an acceptor is sent. Some peers count headers into
# the length.
_MOST = {
    0x01: _MAX_REQUEST_BYTES,
    _P_DATA_TF: MAX_PDU_BYTES + 64,
    0x05: _MAX_CONTROL_BYTES,
    0x06: _MAX_CONTROL_BYTES,
    0x07: _MAX_CONTROL_BYTES,
}

# A PDU under way has so long, and as much more as this rate makes of its length.
_PDU_SECONDS = 30.0
_BYTES_PER_SECOND = 8 * 2**10

# How long a wait lasts at most before timers are looked at.
_PATIENCE_SECONDS = 0.25

# The least time by which a read of a line that has gone silent looks whether it should still wait.
LINE_SECONDS = 1.0


class _Malformed(Exception):
    """A PDU of an unknown type, or longer than it may be."""


class Told(queue.Queue[Any]):
    """A queue that also wakes who waits for messages: a release or an abort is none."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT001, FBT002
        super().put(item, block, timeout)
        self._association.dimse.msg_queue.put((None, None))


class _Data:
    """A P-DATA-TF PDU (PS3.8 9.3.5), read without a copy of what it carries; pynetdicom's makes six."""

    def __init__(self, body: bytearray) -> None:
        view, at = memoryview(body).toreadonly(), 0
        self._values: list[tuple[int, memoryview]] = []
        while at < len(view):
            length, context = struct.unpack_from(">IB", view, at)
            # The length counts the context and a message control header.
            if length < 2 or at + 4 + length > len(view):
                raise _Malformed
            self._values.append((context, view[at + 5 : at + 4 + length]))
            at += 4 + length

    def to_primitive(self) -> P_DATA:
        """As the DIMSE layer takes it."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(self._values)  # type: ignore[arg-type]
        return primitive


class UpperLayer(DULServiceProvider):
    """The upper layer of one association.

    Its thread waits for the network and for what is to be sent, whichever comes first; call `close` when it has ended.
    """

    def __init__(self, association: Association) -> None:
        super().__init__(association)
        self.daemon = True
        # The loop of the base class sleeps so long when nothing has happened; `_is_transport_event` waits instead.
        self._run_loop_delay = 0.0
        self.to_user_queue = Told(association)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def run_reactor(self) -> None:
        """The thread's own function."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001
            # The boundary of an association: pynetdicom's state machine raises on what it has no state for.
            log.warning("the upper layer broke (%s)", type(error).__name__)
        finally:
            # Who waits for a request waits no longer.
            self.to_user_queue.put(None)

    def close(self) -> None:
        """Give back what the thread needed."""
        os.close(self._wakeup)

    def wake(self) -> None:
        """Let the thread look around."""
        os.eventfd_write(self._wakeup, 1)

    def heard(self) -> None:
        """Begin to count the silence anew."""
        self._idle_timer.restart()

    def send_pdu(self, primitive: Any) -> None:
        """Send a primitive, at once."""
        super().send_pdu(primitive)
        self.wake()

    def stop_dul(self) -> bool:
        """End the thread where the connection is closed; whether it was."""
        idle = self.state_machine.current_state == "Sta1"
        if idle:
            self._kill_thread = True
        self.wake()
        if idle:
            self.join()
        return idle

    def _is_transport_event(self) -> bool:
        """Wait for the network, but not while something else is to be done; whether something was read."""
        if self.state_machine.current_state == "Sta13":
            return super()._is_transport_event()
        if not self.event_queue.empty() or not self._readable():
            return False
        self._read_pdu_data()
        return True

    def _readable(self) -> bool:
        connection = self.socket.socket if self.socket else None
        # One message may wait while another is worked on: a peer that sends more than that has to wait (PS3.7 D.3.3.3,
        # one operation at a time is what was negotiated).
        reading = connection is not None and self.assoc.dimse.msg_queue.qsize() < 2
        if reading and isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if reading and connection is not None:
            try:
                poll.register(connection, select.POLLIN)
            except ValueError:  # closed by the other thread just now
                reading = False
        ready = [descriptor for descriptor, _ in poll.poll(_PATIENCE_SECONDS * 1000)]
        if self._wakeup in ready:
            os.eventfd_read(self._wakeup)
            ready.remove(self._wakeup)
        return reading and bool(ready)

    def _read_pdu_data(self) -> None:
        """Read one PDU, and say what came (PS3.8 table 9-10)."""
        assert self.socket
        try:
            kind, received = self._pdu()
        except OSError:
            # Closed, or as good as; closing gives Evt17.
            self.socket.close()
            return
        except _Malformed:
            self.event_queue.put("Evt19")
            return
        try:
            pdu, event = (_Data(received), "Evt10") if kind == _P_DATA_TF else self._decode_pdu(received)
        except Exception:  # noqa: BLE001
            # The boundary of an association: pynetdicom's parsers raise nearly anything on rubbish.
            self.event_queue.put("Evt19")
            return
        self._recv_pdu.put(pdu)  # type: ignore[arg-type]
        self.event_queue.put(event)

    def _pdu(self) -> tuple[int, bytearray]:
        """Type of a PDU and all of it; of a P-DATA-TF only what follows its header."""
        end = time.monotonic() + self._seconds()
        header = self._exactly(6, end)
        length = int.from_bytes(header[2:6], "big")
        if length > _MOST.get(header[0], -1):
            raise _Malformed
        if self.assoc.is_established:
            end += length / _BYTES_PER_SECOND
        body = self._exactly(length, end)
        return header[0], body if header[0] == _P_DATA_TF else header + body

    def _seconds(self) -> float:
        """How long a PDU may take. Before there is an association the ARTIM timer counts (PS3.8 9.1.5)."""
        return _PDU_SECONDS if self.assoc.is_established else max(0.0, self.artim_timer.remaining)

    def _exactly(self, count: int, end: float) -> bytearray:
        """Read so many bytes; an OSError where they do not come in time."""
        assert self.socket
        data = bytearray(count)
        with memoryview(data) as view:
            got = 0
            while got < count:
                connection: socket.socket | None = self.socket.socket
                if connection is None:
                    raise ConnectionError
                if self._kill_thread or time.monotonic() > end:
                    raise TimeoutError
                try:
                    read = connection.recv_into(view[got:])
                except TimeoutError:
                    continue
                if not read:
                    raise ConnectionError
                got += read
        return data


class Line(AssociationSocket):
    """The connection of an association; a send that the peer does not take fails instead of waiting for ever."""

    def __init__(self, association: Association, connection: socket.socket) -> None:
        connection.settimeout(LINE_SECONDS)
        super().__init__(association, client_socket=connection)
