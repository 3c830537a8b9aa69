"""The commands that are understood, C-STORE and C-ECHO, and their answers (PS3.7 9.3, E.1).

pynetdicom has them all, by way of pydicom data sets; for each object that took a quarter of the processor time (measured).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

C_STORE_RQ = 0x0001
C_ECHO_RQ = 0x0030
C_CANCEL_RQ = 0x0FFF

_ANSWER = 0x8000
_NO_DATA_SET = 0x0101

# Elements of group 0000.
_SOP_CLASS = 0x0002
_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_ANSWERED_ID = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_COMMENT = 0x0902
_SOP_INSTANCE = 0x1000


class Unexpected(Exception):
    """A peer that does not keep to what was negotiated; the association ends."""


@dataclass(frozen=True)
class Command:
    """A request.

    Parameters
    ----------
    field
        `C_STORE_RQ`, `C_ECHO_RQ` or `C_CANCEL_RQ`.
    sop_class, sop_instance
        Affected SOP Class and Instance UID; empty where they are not given.
    """

    field: int
    message_id: int
    sop_class: str
    sop_instance: str
    has_data_set: bool


def read(encoded: bytes) -> Command:
    """Read a command set, which is implicit VR little endian (PS3.7 6.3.1).

    Raises
    ------
    Unexpected
        It is malformed, or none of the commands that are understood.
    """
    elements = dict(_elements(encoded))
    field = _number(elements, _FIELD)
    if field not in {C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ}:
        raise Unexpected("a command that was not negotiated")
    return Command(
        field,
        _number(elements, _ANSWERED_ID if field == C_CANCEL_RQ else _MESSAGE_ID),
        _uid(elements, _SOP_CLASS),
        _uid(elements, _SOP_INSTANCE),
        _number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def answer(command: Command, status: int, comment: str = "") -> bytes:
    """Encode the answer to a request.

    Parameters
    ----------
    comment
        Why it was not done; at most 64 characters (LO, PS3.5 6.2).
    """
    parts = [
        _element(_SOP_CLASS, command.sop_class.encode("ascii"), b"\0"),
        _element(_FIELD, struct.pack("<H", command.field | _ANSWER)),
        _element(_ANSWERED_ID, struct.pack("<H", command.message_id)),
        _element(_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
        _element(_STATUS, struct.pack("<H", status)),
    ]
    if comment:
        parts.append(_element(_COMMENT, comment[:64].encode("ascii", "replace"), b" "))
    if command.field == C_STORE_RQ:
        parts.append(_element(_SOP_INSTANCE, command.sop_instance.encode("ascii"), b"\0"))
    group = b"".join(parts)
    return _element(0x0000, struct.pack("<I", len(group))) + group


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(encoded):
        if at + 8 > len(encoded):
            raise Unexpected("a command that is cut off")
        group, element, length = struct.unpack_from("<HHI", encoded, at)
        if group or length > len(encoded) - at - 8:
            raise Unexpected("a malformed command")
        yield element, encoded[at + 8 : at + 8 + length]
        at += 8 + length


def _number(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise Unexpected("a command without its elements")
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], element: int) -> str:
    """A UID, or what stands in its place, so that it can be handed back as it came."""
    value = elements.get(element, b"").rstrip(b"\0 ")
    if len(value) > 64 or not value.isascii():
        raise Unexpected("a UID that is none")
    return value.decode("ascii")


def _element(element: int, value: bytes, padding: bytes = b"") -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value
