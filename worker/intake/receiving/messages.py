"""pynetdicom's DIMSE layer (PS3.7), made to hand a data set on fragment by fragment instead of collecting it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage

from slicewise.worker.intake.receiving.reception import Arriving

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

_C_STORE_RQ = 0x0001  # PS3.7 table E.1-1

# A command is a dozen elements.
_MAX_COMMAND_BYTES = 64 * 2**10

Begin = Callable[[int, str, str], Arriving]
"""Begin an object: presentation context, SOP class and SOP instance as the command names them."""


class Unexpected(Exception):
    """A peer that does not keep to what was negotiated; the association ends."""


class DataSet(BytesIO):
    """Stands where pynetdicom collects the data set of a message, and collects none.

    Attributes
    ----------
    arriving
        The object that the data set became; None before its first fragment.
    """

    def __init__(self, message: DIMSEMessage, begin: Begin) -> None:
        super().__init__()
        self._message, self._begin = message, begin
        self.arriving: Arriving | None = None

    def write(self, fragment: Any) -> int:
        """Hand on a fragment."""
        if self.arriving is None:
            self.arriving = self._announced(self._message.command_set)
        self.arriving.write(fragment)
        return len(fragment)

    def _announced(self, command: Dataset) -> Arriving:
        context = self._message.context_id
        if context is None or command.get("CommandField") != _C_STORE_RQ:
            raise Unexpected("a data set that no C-STORE announced")
        uids = (str(command.get(f"AffectedSOP{what}UID") or "") for what in ("Class", "Instance"))
        return self._begin(context, *uids)


class Messages(DIMSEServiceProvider):
    """The messages of one association."""

    def __init__(self, association: Association, begin: Begin) -> None:
        super().__init__(association)
        self._begin = begin

    def receive_primitive(self, primitive: Any) -> None:
        """Take in fragments of a message; whole ones are queued. Called by the upper layer's thread."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = DataSet(self.message, self._begin)
        message = self.message
        try:
            super().receive_primitive(primitive)
            if message.encoded_command_set.tell() > _MAX_COMMAND_BYTES:
                raise Unexpected("an endless command")
        except Exception:  # noqa: BLE001
            # The boundary of an association: pynetdicom's parsers raise nearly anything on rubbish. Evt19: invalid PDU.
            self.dul.event_queue.put("Evt19")

    def discard(self) -> None:
        """Let go of what was on its way, or queued, when the association ended."""
        pending = [self.message.data_set] if self.message else []
        while not self.msg_queue.empty():
            _, message = self.msg_queue.get()
            pending.append(getattr(message, "DataSet", None))
        for dataset in pending:
            if isinstance(dataset, DataSet) and dataset.arriving:
                dataset.arriving.discard()
