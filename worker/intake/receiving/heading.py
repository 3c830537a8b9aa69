"""What stands before a data set in a file: preamble and file meta information (PS3.10 7.1)."""

from __future__ import annotations

import struct

# Of slicewise, whatever its version, derived from a UUID (PS3.5 B.2). What is written here must never depend on the
# version or the sender: the same data set sent again has to be the same content.
IMPLEMENTATION_CLASS_UID = "2.25.292804967031597998033744180586247689646"
IMPLEMENTATION_VERSION_NAME = "SLICEWISE"

_PREAMBLE = bytes(128) + b"DICM"


def heading(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Preamble and file meta information for a data set that came by C-STORE.

    Parameters
    ----------
    sop_class, sop_instance
        As the C-STORE command names them.
    transfer_syntax
        In which the data set is encoded: that of the presentation context.
    """
    group = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _uid(0x0002, sop_class),
            _uid(0x0003, sop_instance),
            _uid(0x0010, transfer_syntax),
            _uid(0x0012, IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode() + b" "),
        )
    )
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(group))) + group


def _uid(element: int, value: str) -> bytes:
    encoded = value.encode("ascii")
    return _element(element, b"UI", encoded + b"\0" * (len(encoded) % 2))


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """Explicit VR little endian (PS3.5 7.1.2), in group 0002."""
    length = struct.pack("<HI", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 2, element) + vr + length + value
