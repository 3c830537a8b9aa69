"""How much one input may cost. Everything here is checked before the bytes are unpacked.

The figures bound the memory of one file to about 1 GB: a 408 KB deflated file inflates to 400 MB, an RLE header
may claim 312 GiB, a JPEG 2000 codestream any size it likes (all tried).
"""

from __future__ import annotations

import zlib

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused

MAX_FILE_BYTES = 512 * 2**20
"""Largest file that is read at all."""

MAX_INFLATED_BYTES = 256 * 2**20
"""Largest data set that a deflated file may hold."""

MAX_FRAME_PIXELS = 4096 * 4096
"""Largest frame, in pixels."""

MAX_FRAMES = 2000
"""Most frames in one file. They are decoded one at a time."""

MIN_SIDE = 96
"""Shortest side in pixels of a slice that can be assessed: below it a lesion is a few pixels."""


def check_frame(rows: int, columns: int, frames: int = 1) -> None:
    """Refuse a frame or a count of frames beyond the limits, or too small to be assessed."""
    if rows < 1 or columns < 1 or frames < 1:
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"the header gives {rows} x {columns} pixels and {frames} frames")
    if rows * columns > MAX_FRAME_PIXELS:
        raise Refused(
            RefusalReason.TOO_LARGE, f"{rows} x {columns} pixels; at most {MAX_FRAME_PIXELS} pixels a frame are read"
        )
    if frames > MAX_FRAMES:
        raise Refused(RefusalReason.TOO_LARGE, f"{frames} frames; at most {MAX_FRAMES} are read")
    if min(rows, columns) < MIN_SIDE:
        raise Refused(RefusalReason.TOO_SMALL, f"{rows} x {columns} pixels; a side needs at least {MIN_SIDE}")


def inflate(data: bytes) -> bytes:
    """Undo PS3.5 A.5 deflate within the limit."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error:
        raise Refused(RefusalReason.UNREADABLE, "the deflated data set is damaged") from None
    if stream.unconsumed_tail:
        raise Refused(RefusalReason.TOO_LARGE, f"the deflated data set holds more than {MAX_INFLATED_BYTES} bytes")
    return inflated


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG or JPEG 2000 codestream itself claims, or None where they cannot be found.

    A decoder allocates by these and not by the DICOM header, so they have to be known first.
    ITU-T T.81 B.2.2 and T.87 C.2.2 (frame headers), T.800 A.5.1 (SIZ).
    """
    soc = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if soc >= 0:
        x1, y1, x0, y0 = (int.from_bytes(data[soc + 8 + k : soc + 12 + k], "big") for k in (0, 4, 8, 12))
        return y1 - y0, x1 - x0
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF:
            return None
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + max(2, length)
    return None
