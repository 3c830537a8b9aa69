"""In the place of pynetdicom's DIMSE layer (PS3.7): hands a data set on fragment by fragment instead of collecting it."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from slicewise.worker.intake.receiving import commands
from slicewise.worker.intake.receiving.commands import C_CANCEL_RQ, C_STORE_RQ, Command, Unexpected
from slicewise.worker.intake.receiving.reception import Arriving

if TYPE_CHECKING:
    from pynetdicom.association import Association

# A command is a dozen elements.
_MAX_COMMAND_BYTES = 16 * 2**10

# Message control header (PS3.8 E.2).
_IS_COMMAND = 1
_IS_LAST = 2

# What stands before a fragment in a PDU: length, context and control header (PS3.8 9.3.5).
_FRAGMENT_HEADER_BYTES = 6

Begin = Callable[[int, Command], Arriving]
"""Begin the object that a command on a presentation context announces."""


@dataclass
class Message:
    """A request on a presentation context, with what became of its data set."""

    context: int
    command: Command
    arriving: Arriving | None = None


class Messages(DIMSEServiceProvider):
    """The messages of one association."""

    def __init__(self, association: Association, begin: Begin) -> None:
        super().__init__(association)
        self._begin = begin
        self._command = bytearray()
        self._half: Message | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is half received and nothing waits."""
        return not self._command and self._half is None and self.msg_queue.empty()

    def next(self, seconds: float) -> Message | None:
        """The next request; None where there is none in that time, or something else has to be looked at first."""
        try:
            return self.msg_queue.get(timeout=seconds)[1]  # type: ignore[return-value]
        except queue.Empty:
            return None

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take in fragments of requests. Called by the upper layer's thread."""
        try:
            for context, value in primitive.presentation_data_value_list:
                self._take(context, value[0], value[1:])
        except Exception:  # noqa: BLE001
            # The boundary of an association. Evt19: an invalid PDU.
            self.dul.event_queue.put("Evt19")

    def answer(self, message: Message, status: int, comment: str = "") -> None:
        """Send the answer to a request, in as many fragments as the peer wants."""
        encoded = commands.answer(message.command, status, comment)
        most = max(self.maximum_pdu_size - _FRAGMENT_HEADER_BYTES, 1) if self.maximum_pdu_size else len(encoded)
        for start in range(0, len(encoded), most):
            last = _IS_LAST if start + most >= len(encoded) else 0
            primitive = P_DATA()
            fragment = bytes([_IS_COMMAND | last]) + encoded[start : start + most]
            primitive.presentation_data_value_list.append((message.context, fragment))
            self.dul.send_pdu(primitive)

    def discard(self) -> None:
        """Let go of what was on its way, or waited, when the association ended."""
        pending: list[Any] = [self._half]
        while not self.msg_queue.empty():
            pending.append(self.msg_queue.get()[1])
        for message in pending:
            if message and message.arriving:
                message.arriving.discard()

    def _take(self, context: int, control: int, fragment: Any) -> None:
        if not control & _IS_COMMAND:
            self._take_data(context, control, fragment)
            return
        self._command += fragment
        if self._half or len(self._command) > _MAX_COMMAND_BYTES:
            raise Unexpected("a command without an end, or within another")
        if control & _IS_LAST:
            message = Message(context, commands.read(bytes(self._command)))
            self._command.clear()
            if message.command.has_data_set:
                self._half = message
            elif message.command.field != C_CANCEL_RQ:
                self.msg_queue.put((context, message))  # type: ignore[arg-type]

    def _take_data(self, context: int, control: int, fragment: Any) -> None:
        message = self._half
        if message is None or message.context != context or message.command.field != C_STORE_RQ:
            raise Unexpected("a data set that no C-STORE announced")
        if message.arriving is None:
            message.arriving = self._begin(context, message.command)
        message.arriving.write(fragment)
        if control & _IS_LAST:
            self._half = None
            self.msg_queue.put((context, message))  # type: ignore[arg-type]
