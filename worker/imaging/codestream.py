"""What a compressed frame says of itself, checked before a decoder believes it.

A decoder allocates by its codestream and not by the DICOM header, so the two have to agree first; and most decoders
make up what a cut codestream lacks (tried: 53 % of a JPEG lossless picture invented, without a word).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import limits

_JPEG_2000 = {*uid.JPEG2000TransferSyntaxes}

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_SOS = b"\xff\xda"
_END = b"\xff\xd9"
# ITU-T T.81 B.1.1.3: the frame headers SOF0 to SOF15, less DHT, JPG and DAC; T.87 C.1.1: SOF55.
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
_LOSSLESS = {0xC3}
_LS = {0xF7}

# The coding processes that each transfer syntax allows (PS3.5 A.4.1 to A.4.3).
_PROCESSES = {
    uid.JPEGBaseline8Bit: _SEQUENTIAL,
    uid.JPEGExtended12Bit: _SEQUENTIAL,
    uid.JPEGLossless: _LOSSLESS,
    uid.JPEGLosslessSV1: _LOSSLESS,
    uid.JPEGLSLossless: _LS,
    uid.JPEGLSNearLossless: _LS,
}


@dataclass(frozen=True)
class Shape:
    """Size of a frame, and of one value in bits: as allocated by the header, or as stated by the codestream."""

    rows: int
    columns: int
    samples: int
    bits: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} pixels of {self.samples} values of {self.bits} bits"


def checked(frame: bytes, syntax: str, shape: Shape) -> tuple[bytes, int]:
    """Refuse a compressed frame that is not the picture of the header, or not all of it.

    Parameters
    ----------
    frame
        The joined fragments of one frame.
    syntax
        Transfer Syntax UID; a compressed one.
    shape
        What the DICOM header says.

    Returns
    -------
    tuple
        The frame, with the one known harmless fault of encoders repaired; and the bits that a decoder allocates for
        each value.

    Raises
    ------
    Refused
        ``corrupt_pixels``, ``truncated_pixels`` or ``too_large``.
    """
    if syntax == uid.RLELossless:
        _check_rle(frame, shape)
        return frame, shape.bits
    try:
        if syntax in _JPEG_2000:
            stated = _jpeg_2000(frame)
        else:
            stated, frame = _jpeg(frame, _PROCESSES[uid.UID(syntax)])
    except (struct.error, IndexError):
        raise Refused(RefusalReason.TRUNCATED_PIXELS, "a compressed picture ends within its header") from None
    if stated.bits > shape.bits or replace(stated, bits=shape.bits) != shape:
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"{shape} by the header, {stated} by the compressed picture")
    return frame, next(bits for bits in (8, 16, 32) if stated.bits <= bits)


def _check_rle(frame: bytes, shape: Shape) -> None:
    """Check the RLE header (PS3.5 G.5): one segment for each byte of a pixel, in order, within the frame."""
    segments = shape.samples * shape.bits // 8
    if len(frame) < 64:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, "an RLE frame ends within its header")
    count, *offsets = struct.unpack_from("<16L", frame)
    if count != segments or segments > 15:
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"{count} RLE segments; a pixel has {segments} bytes")
    used = [*offsets[:count], len(frame)]
    if used[0] != 64 or sorted(used[:-1]) != used[:-1]:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "the RLE segments overlap")
    if used[-2] >= used[-1]:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, "an RLE frame ends before its last segment")


def _jpeg(data: bytes, processes: set[int]) -> tuple[Shape, bytes]:
    """Rows, columns and samples of a JPEG or JPEG-LS picture, which has to be complete; and the picture, repaired."""
    if data[:2] != b"\xff\xd8":
        raise Refused(RefusalReason.CORRUPT_PIXELS, "no JPEG picture where the transfer syntax promises one")
    stated, at = None, 2
    while data[at : at + 2] != _SOS:
        marker, length = struct.unpack_from(">xBH", data, at)
        if data[at] != 0xFF:
            raise Refused(RefusalReason.CORRUPT_PIXELS, "a JPEG marker is damaged")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _SOF:
            if stated is not None or marker not in processes:
                raise Refused(RefusalReason.CORRUPT_PIXELS, "a JPEG picture of another kind than its transfer syntax")
            bits, rows, columns, samples = struct.unpack_from(">BHHB", data, at + 4)
            stated = Shape(rows, columns, samples, bits)
        at += 2 + max(2, length)
    if stated is None:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "a JPEG picture without a size")
    # No entropy-coded data can hold the marker: a zero bit or byte is stuffed behind each FF (T.81 F.1.2.3, T.87 A.1).
    if data.find(_END, at) < 0:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, "a compressed picture has no end")
    limits.check_scans(data)
    return stated, _with_spectrum(data, at) if processes is _SEQUENTIAL else data


def _with_spectrum(data: bytes, sos: int) -> bytes:
    """A sequential JPEG whose scan spans coefficients 0 to 63, as it has to (ITU-T T.81 B.2.3).

    Encoders of 12-bit pictures write 0 to 0 (tried: NEMA's own samples), at which the decoders stop.
    """
    end = sos + 2 + int.from_bytes(data[sos + 2 : sos + 4], "big")
    return data[: end - 3] + b"\0\x3f\0" + data[end:] if data[end - 3 : end] == b"\0\0\0" else data


def _jpeg_2000(data: bytes) -> Shape:
    """Rows, columns and samples of a JPEG 2000 codestream (ITU-T T.800 A.5.1), which has to be complete."""
    # Some writers wrap it in a JP2 file, against PS3.5 A.4.4. A second start could be a decoy for this check.
    start = 0 if data.startswith(_SOC_SIZ) else data.find(_SOC_SIZ)
    if start < 0 or (start and not (data.startswith(_JP2_SIGNATURE) and data.count(_SOC_SIZ) == 1)):
        raise Refused(RefusalReason.CORRUPT_PIXELS, "no JPEG 2000 picture where the transfer syntax promises one")
    length, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(">H2x8LH", data, start + 4)
    if not tile_x or not tile_y or tile_x0 > x0 or tile_y0 > y0:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "a JPEG 2000 picture with impossible tiles")
    tiles = -((tile_x0 - x1) // tile_x) * -((tile_y0 - y1) // tile_y)
    if tiles > limits.MAX_TILES:
        raise Refused(RefusalReason.TOO_LARGE, f"{tiles} JPEG 2000 tiles; at most {limits.MAX_TILES} are read")
    # T.800 A.5.1, Ssiz: the sign and the depth less 1 of each component.
    bits = max(((data[start + 42 + 3 * component] & 0x7F) + 1 for component in range(min(samples, 3))), default=0)
    _check_tile_parts(data, start + 4 + length)
    return Shape(y1 - y0, x1 - x0, samples, bits)


def _check_tile_parts(data: bytes, at: int) -> None:
    """Follow the lengths that the tile-parts state (T.800 A.4.2) to the end of the data."""
    parts = 0
    while at + 2 <= len(data) and data[at : at + 2] != _END:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker != 0xFF90:  # main header
            if parts or marker < 0xFF00:
                return  # behind the last tile-part: not needed for the picture
            at += 2 + max(2, length)
            continue
        parts += 1
        (size,) = struct.unpack_from(">L", data, at + 6)
        # 0: up to the end of the codestream, which then has to be there.
        if not size and not data.rstrip(b"\0").endswith(_END):
            raise Refused(RefusalReason.TRUNCATED_PIXELS, "a compressed picture has no end")
        if not size or parts > 16 * limits.MAX_TILES:
            return
        at += max(12, size)
    if at > len(data) or not parts:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, "a compressed picture is cut off")
