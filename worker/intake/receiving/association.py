"""One association: pynetdicom's negotiation, and this application's answers."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections import Counter
from typing import TYPE_CHECKING

from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation

from slicewise.worker.intake.receiving import contexts
from slicewise.worker.intake.receiving.callers import printable
from slicewise.worker.intake.receiving.commands import C_STORE_RQ, Command, Unexpected
from slicewise.worker.intake.receiving.committer import Sending
from slicewise.worker.intake.receiving.messages import Message, Messages
from slicewise.worker.intake.receiving.reception import Arriving, Declined, Reception, Status
from slicewise.worker.intake.receiving.upper_layer import LINE_SECONDS, MAX_PDU_BYTES, Line, UpperLayer

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity

    from slicewise.worker.intake.receiving.server import Server

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 0.25


class Receiving(Association):
    """An association that sends to this application. A thread of its own, and one for its upper layer.

    Parameters
    ----------
    connection
        As accepted.
    address
        The peer's.
    """

    def __init__(
        self,
        ae: ApplicationEntity,
        server: Server,
        connection: socket.socket,
        address: str,
        *,
        reception: Reception,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._server = server  # type: ignore[assignment]
        self._connection, self._address, self._tls = connection, address, tls
        self._reception = reception
        self._sending = Sending(f"?@{address}")
        self._answers: Counter[int] = Counter()
        self.upper_layer = UpperLayer(self)
        self._messages = Messages(self, self._begin)
        self.dul, self.dimse = self.upper_layer, self._messages
        self._stopping = False
        # The timers are the upper layer's, which is another one now.
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout
        self._introduce(server)

    def _introduce(self, server: Server) -> None:
        self.set_socket(Line(self, self._connection))
        self.acceptor.maximum_length = MAX_PDU_BYTES
        self.acceptor.ae_title = self.ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(server.address)
        self.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        self.acceptor.implementation_version_name = self.ae.implementation_version_name
        self.requestor.address_info = AddressInformation.from_tuple((self._address, 0))

    def stop(self) -> None:
        """Let it end as soon as nothing is half received."""
        self._stopping = True

    def run_reactor(self) -> None:
        """Negotiate, then answer until the peer has done; the thread's own function."""
        began = time.monotonic()
        try:
            if self._secured():
                super().run_reactor()
        finally:
            self._finish(time.monotonic() - began)

    def _secured(self) -> bool:
        """Shake hands where TLS is asked for. Here and not where connections are accepted: a peer may take its time."""
        if self._tls is None:
            return True
        assert self.dul.socket
        try:
            self._connection.settimeout(self.acse_timeout)
            secured = self._tls.wrap_socket(self._connection, server_side=True)
            secured.settimeout(LINE_SECONDS)
        except OSError as error:
            log.warning("%s: no TLS: %s", self._address, getattr(error, "reason", None) or type(error).__name__)
            self._connection.close()
            return False
        self._connection = self.dul.socket.socket = secured
        return True

    def _run_reactor(self) -> None:
        """Serve until released, aborted, silent for too long, or stopped."""
        while not self._kill:
            message = self._messages.next(_PATIENCE_SECONDS)
            if message is not None:
                self._serve(message)
                self.upper_layer.heard()
            elif self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released, self.is_established = True, False
                self.kill()
            elif self.acse.is_aborted():
                self.is_aborted, self.is_established = True, False
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                log.warning("%s: silent for too long", self._sending.sender)
                self.abort()
            if self._stopping and self._messages.idle:
                self.abort()

    def _begin(self, context_id: int, command: Command) -> Arriving:
        """Begin an object; called by the upper layer's thread with the first fragment."""
        context = self._accepted_cx.get(context_id)
        if context is None:
            raise Unexpected("a presentation context that was not accepted")
        return self._reception.begin(command.sop_class, command.sop_instance, str(context.transfer_syntax[0]))

    def _serve(self, message: Message) -> None:
        """Answer a request."""
        context = self._accepted_cx.get(message.context)
        if context is None:
            log.warning("%s: a presentation context that was not accepted", self._sending.sender)
            self.abort()
            return
        status, comment = Status.SUCCESS, ""
        try:
            self._do(message, str(context.abstract_syntax))
        except Declined as declined:
            status, comment = declined.status, declined.comment
            log.warning("%s: 0x%04X, %s", self._sending.sender, status, comment)
        self._answers[status] += 1
        self._messages.answer(message, status, comment)

    def _do(self, message: Message, sop_class: str) -> None:
        """Do what a request asks for; `Declined` where it cannot be done."""
        command = message.command
        storing = command.field == C_STORE_RQ
        if command.sop_class != sop_class or storing == (sop_class == contexts.VERIFICATION):
            if message.arriving:
                message.arriving.discard()
            raise Declined(Status.SOP_CLASS_NOT_SUPPORTED, "not the SOP class of this presentation context")
        if not storing:
            return
        if message.arriving is None:
            raise Declined(Status.CANNOT_UNDERSTAND, "there is no data set")
        self._reception.keep(self._sending, message.arriving)

    def requested(self) -> None:
        """Look at what the peer proposes, before it is negotiated."""
        assert self.requestor.primitive
        self._sending.sender = f"{printable(str(self.requestor.primitive.calling_ae_title))}@{self._address}"
        proposed = self.requestor.primitive.presentation_context_definition_list
        self.acceptor.supported_contexts = contexts.supported(proposed)

    def _finish(self, seconds: float) -> None:
        """Whatever happened: nothing half received stays, no job stays open, nothing is kept from the system."""
        if self.upper_layer.is_alive():
            self.kill()
        self._messages.discard()
        self._connection.close()
        self.upper_layer.close()
        self._reception.end(self._sending)
        if self.requestor.primitive is None:
            log.info("%s: connected, no association", self._address)
        else:
            self._say_sum(seconds)

    def _say_sum(self, seconds: float) -> None:
        how = "released" if self.is_released else "rejected" if self.is_rejected else "aborted"
        kept = self._answers.pop(Status.SUCCESS, 0)
        declined = "".join(f", {count} declined 0x{status:04X}" for status, count in sorted(self._answers.items()))
        log.info("%s: %s after %.1f s, %d done%s", self._sending.sender, how, seconds, kept, declined)
