"""One frame after another out of Pixel Data: found, checked, decoded."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset, uid
from pydicom.pixels import get_decoder

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import codestream, encapsulated, foreign

_NATIVE = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
}

# Decoders in the order they are tried. Each was fed thousands of damaged codestreams, and these are left out:
# gdcm for JPEG, though it takes 9 ms where pylibjpeg takes 15: it aborts the process at one damaged file in 400;
# pydicom's own for RLE, which shifts the picture where a segment is too long.
_DECODERS: dict[str, tuple[str, ...]] = {
    uid.RLELossless: ("pylibjpeg",),
    uid.JPEGBaseline8Bit: ("pylibjpeg",),
    uid.JPEGExtended12Bit: ("pylibjpeg",),
    uid.JPEGLossless: ("pylibjpeg",),
    uid.JPEGLosslessSV1: ("pylibjpeg",),
    # gdcm knows older encoders' JPEG-LS. pylibjpeg would too, but makes up what is damaged.
    uid.JPEGLSLossless: ("pyjpegls", "gdcm"),
    uid.JPEGLSNearLossless: ("pyjpegls", "gdcm"),
    uid.JPEG2000Lossless: ("pylibjpeg",),
    uid.JPEG2000: ("pylibjpeg",),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
}

# PS3.3 C.7.6.3.1.2, less what is retired (HSV, ARGB, CMYK) and what only video has.
_READABLE = {
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
    "YBR_PARTIAL_422",
}

# The Image Pixel module (PS3.3 C.7.6.3), as far as a decoder needs it.
_DESCRIPTION = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)

# Rows or frames that the header does not tell of: more than a writer's padding to its block.
_MOST_PADDING = 4096


@dataclass(frozen=True)
class PixelData:
    """The value of Pixel Data where it lies in the file: nothing is copied until a frame is decoded."""

    vr: str
    value: memoryview
    encapsulated: bool


def decoded(dataset: Dataset, pixels: PixelData, header: Header) -> Iterator[np.ndarray]:
    """Yield the stored values of each frame: ``(rows, columns)``, or ``(rows, columns, 3)`` RGB.

    Raises
    ------
    Refused
        ``truncated_pixels``, ``corrupt_pixels``, ``too_large`` or ``unsupported_transfer_syntax``.
    """
    syntax = header.transfer_syntax_uid or ""
    with foreign.refusing(RefusalReason.CORRUPT_PIXELS, "its pixels are described by malformed values"):
        template = _template(dataset)
        values = _values(template, pixels, header, syntax)
    for number in itertools.count(1):
        with foreign.refusing(RefusalReason.CORRUPT_PIXELS, f"frame {number} cannot be found"):
            value = next(values, None)
        if value is None:
            return
        template.add_new("PixelData", pixels.vr, value)
        yield _array(template, syntax, number)


def _template(dataset: Dataset) -> Dataset:
    """A data set that describes one frame, to be filled with its pixels."""
    one = Dataset()
    one.file_meta = dataset.file_meta
    for name in _DESCRIPTION:
        if name in dataset:
            one[name] = dataset[name]
    return one


def _values(template: Dataset, pixels: PixelData, header: Header, syntax: str) -> Iterator[bytes]:
    """One value of Pixel Data for each frame, checked as far as it can be before decoding."""
    bits, samples = int(template.get("BitsAllocated") or 0), int(template.get("SamplesPerPixel") or 1)
    if bits not in (8, 16, 32) or samples not in (1, 3):
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"{samples} values of {bits} bits a pixel cannot be read")
    if template.get("PhotometricInterpretation") not in _READABLE:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "its photometric interpretation is retired or not given")
    if syntax in _NATIVE and int(template.get("HighBit", template.BitsStored - 1)) != template.BitsStored - 1:
        # Before 2004 values could lie anywhere in their words (PS3.5 8.1.1); pydicom reads them as if they did not.
        raise Refused(RefusalReason.CORRUPT_PIXELS, "its values do not lie at the low end of their words")
    shape = codestream.Shape(header.rows or 0, header.columns or 0, samples, bits)
    count = header.frames or 1
    if syntax not in _NATIVE and syntax not in _DECODERS:
        raise Refused(RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX, f"no decoder for {_name(syntax)}")
    if pixels.encapsulated == (syntax in _NATIVE):
        raise Refused(RefusalReason.CORRUPT_PIXELS, "its pixels are not encoded as its transfer syntax says")
    if syntax in _DECODERS:
        return _compressed(template, pixels.value, count, shape, syntax)
    # PS3.3 C.7.6.3.1.2: two pixels share their colour.
    shared = template.get("PhotometricInterpretation") == "YBR_FULL_422"
    size = shape.rows * shape.columns * (2 if shared else samples) * bits // 8
    return _native(pixels.value, count, size)


def _native(value: memoryview, count: int, size: int) -> Iterator[bytes]:
    needed, found = count * size, len(value)
    if found < needed:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, f"{found} of {needed} bytes of pixel data are there")
    if found > needed + _MOST_PADDING:
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"{found} bytes of pixel data; the header describes {needed}")
    # The last frame keeps the byte that pads the value to an even length (PS3.5 8.1.1).
    return (bytes(value[at : at + size + (size % 2 if at + size == needed else 0)]) for at in range(0, needed, size))


def _compressed(
    template: Dataset, value: memoryview, count: int, shape: codestream.Shape, syntax: str
) -> Iterator[bytes]:
    stored = int(template.BitsStored)
    for frame in encapsulated.frames(value, count):
        picture, bits = codestream.checked(frame, syntax, shape)
        # A picture of 8 bits is decoded to bytes, whatever the header allocates.
        template.BitsAllocated, template.BitsStored = bits, min(stored, bits)
        template.HighBit = template.BitsStored - 1
        # Encapsulated anew, alone: an empty offset table and one fragment of even length (PS3.5 A.4).
        padded = picture + b"\0" * (len(picture) % 2)
        yield b"\xfe\xff\x00\xe0\0\0\0\0" + struct.pack("<LL", 0xE000FFFE, len(padded)) + padded


def _array(template: Dataset, syntax: str, number: int) -> np.ndarray:
    """One frame's stored values, from the first decoder that manages it."""
    decoder, failures = get_decoder(syntax), []
    for plugin in _DECODERS.get(syntax, ("",)):
        try:
            stored, _ = decoder.as_array(template, index=0, decoding_plugin=plugin, view_only=True)  # type: ignore[arg-type]
        except BaseException as error:
            if not foreign.is_failure(error):
                raise
            failures.append(f"{plugin}: {type(error).__name__}" if plugin else type(error).__name__)
        else:
            # In this machine's byte order: the other one costs every step that follows.
            return np.asarray(stored, stored.dtype.newbyteorder("="))
    detail = f"frame {number}, {_name(syntax)}: no decoder could read it ({', '.join(failures)})"
    raise Refused(RefusalReason.CORRUPT_PIXELS, detail)


def _name(syntax: str) -> str:
    known = uid.UID(syntax)
    return known.name if known.is_transfer_syntax else "an unknown transfer syntax"
