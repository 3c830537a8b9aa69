"""How much one input may cost. Everything here is checked before the bytes are unpacked.

The figures bound the memory of one file to about 1 GB: a 408 KB deflated file inflates to 400 MB, an RLE header
may claim 312 GiB, a JPEG 2000 codestream any size it likes (all tried).
"""

from __future__ import annotations

import io
import zlib

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused

MAX_FILE_BYTES = 512 * 2**20
"""Largest file that is read at all."""

MAX_INFLATED_BYTES = 256 * 2**20
"""Largest data set that a deflated file may hold."""

MAX_HEADER_BYTES = 16 * 2**20
"""Where the pixel data has to begin. Real headers of 33 frames take 0.2 MB; what lies beyond is not parsed."""

MAX_READS = 500_000
"""Most reads by which a header may be parsed, about two an element: 5 s. Real ones take up to 311,000."""

MAX_ITEMS = 100_000
"""Most sequence items in a header: one costs pydicom 20 µs, and 8 bytes of the file."""

MAX_VALUES = 250_000
"""Most values that backslashes may part in a header: one costs pydicom 200 bytes, and 1 byte of the file."""

MAX_FRAGMENTS = 100_000
"""Most fragments of compressed pixel data."""

MAX_FRAME_PIXELS = 4096 * 4096
"""Largest frame, in pixels."""

MAX_FRAMES = 2000
"""Most frames in one file. They are decoded one at a time."""

MAX_PIXELS = 2**29
"""Most pixels in all frames together: 2,000 frames of 512 x 512. Bounds the time, as MAX_FRAME_PIXELS the memory."""

MAX_SCANS = 64
"""Most scans of a JPEG picture. Each passes over the whole picture, yet takes a few bytes of the file."""

MAX_TILES = 4096
"""Most tiles of a JPEG 2000 picture. A decoder sets up each one before it reads any."""

MIN_SIDE = 96
"""Shortest side in pixels of a slice that can be assessed: below it a lesion is a few pixels."""

_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


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
    if rows * columns * frames > MAX_PIXELS:
        raise Refused(
            RefusalReason.TOO_LARGE,
            f"{frames} frames of {rows} x {columns} pixels; at most {MAX_PIXELS} pixels a file are read",
        )
    if min(rows, columns) < MIN_SIDE:
        raise Refused(RefusalReason.TOO_SMALL, f"{rows} x {columns} pixels; a side needs at least {MIN_SIDE}")


class Metered(io.BytesIO):
    """A header that counts what is read of it: a few megabytes can hold minutes of parsing.

    Sequences and numbers are parsed when they are first asked for, so it is their bytes that have to be counted.
    """

    def __init__(self, header: bytes) -> None:
        super().__init__(header)
        self._reads = self._items = self._values = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does, and refuse what would take too long."""
        read = super().read(size)
        self._reads += 1
        self._items += max(read.count(tag) for tag in _ITEM_TAGS)
        self._values += read.count(b"\\")
        self.check()
        return read

    def check(self) -> None:
        """Refuse the header if it has been read too much; a parser may have taken the first refusal for its own."""
        if self._reads > MAX_READS or self._items > MAX_ITEMS or self._values > MAX_VALUES:
            raise Refused(RefusalReason.TOO_LARGE, "its header holds more elements, items or values than are read")


def check_scans(jpeg: bytes) -> None:
    """Refuse a JPEG picture of more scans (marker SOS, ITU-T T.81 B.2.3) than any encoder writes."""
    scans = jpeg.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise Refused(RefusalReason.TOO_LARGE, f"{scans} JPEG scans; at most {MAX_SCANS} are read")


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
