"""Heads made of arithmetic, and files around them: DICOM in every syntax that can be written, JPEG and PNG.

Nothing here comes from a patient, and nothing from a random generator: the golden slices are pinned byte for byte.
"""

from __future__ import annotations

import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import open_scan, to_raster

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def head(rows=160, columns=144, *, top=1000, dtype=np.uint16, lesion=True):
    """``(rows, columns)``: air 0, a bright scalp, a dark skull, a textured brain, one bright lesion; at most `top`."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.int64)
    # Squared distance from the middle, 1000 at the edge of the head; whole numbers, the same on every machine.
    d = 1000 * ((2 * y - rows) ** 2 * 25) // (rows * rows * 20) + 1000 * ((2 * x - columns) ** 2 * 25) // (
        columns * columns * 16
    )
    texture = (x * 37 + y * 91 + x * y) % 61
    permille = np.where(d < 700, 420 + texture * 3, np.where(d < 820, 80, np.where(d < 1000, 850 + texture, 0)))
    if lesion:
        permille = np.where((2 * y - rows) ** 2 * 100 + (2 * x - columns - 20) ** 2 * 100 < rows * rows, 700, permille)
    return (permille * top // 1000).astype(dtype)


def _data_set(pixels, **elements):
    frames = elements.pop("frames", 1)
    colour = pixels.ndim - (frames > 1) == 3
    rows, columns = pixels.shape[1:3] if frames > 1 else pixels.shape[:2]
    ds = Dataset()
    ds.SOPClassUID = uid.MRImageStorage
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.Modality = "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SeriesDescription = "AX T1 BRAIN"
    ds.PatientName = "Nobody"
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = pixels.dtype.itemsize * 8
    ds.BitsStored = ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    if frames > 1:
        ds.NumberOfFrames = frames
    for name, value in elements.items():
        _set(ds, name, value)
    return ds


def _set(ds, name, value):
    """Set an attribute, malformed where it is given as bytes."""
    tag = tag_for_keyword(name)
    vr = dictionary_VR(tag)
    if isinstance(value, bytes) and vr not in {"OB", "OW", "OB or OW", "US or OW"}:
        ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    else:
        setattr(ds, name, value)


def _saved(ds, syntax, *, preamble=b"\0" * 128, meta=True):
    out = DicomBytesIO()
    out.is_implicit_VR = syntax == uid.ImplicitVRLittleEndian
    out.is_little_endian = syntax != uid.ExplicitVRBigEndian
    write_dataset(out, ds)
    return part10(out.getvalue(), syntax, preamble=preamble) if meta else out.getvalue()


def part10(rest, syntax, *, preamble=b"\0" * 128):
    """Preamble, file meta information, and then any bytes."""
    out = io.BytesIO()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    write_file_meta_info(out, meta, enforce_standard=False)
    return (b"" if preamble is None else preamble + b"DICM") + out.getvalue() + rest


def native(pixels, syntax=uid.ExplicitVRLittleEndian, *, preamble=b"\0" * 128, meta=True, **elements):
    """A DICOM file of uncompressed pixels, ``(rows, columns)``, with colour last and frames first."""
    ds = _data_set(pixels, **elements)
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.add_new("PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))
    return _saved(ds, syntax, preamble=preamble, meta=meta)


def encapsulated(streams, syntax, pixels, *, table=None, end=_END, fragments=1, **elements):
    """A DICOM file around compressed frames: `table` is the offset table's bytes, true where it is None."""
    items, offsets, at = [], [], 0
    for stream in streams:
        offsets.append(at)
        padded = stream + b"\0" * (len(stream) % 2)
        size = -(-len(padded) // fragments)
        size = max(2, size + size % 2)
        for start in range(0, len(padded), size):
            part = padded[start : start + size]
            items.append(_ITEM + struct.pack("<L", len(part)) + part)
            at += len(items[-1])
    table = struct.pack(f"<{len(offsets)}L", *offsets) if table is None else table
    value = _ITEM + struct.pack("<L", len(table)) + table + b"".join(items) + end
    ds = _data_set(pixels, **elements)
    header = _saved(ds, syntax)
    return header + struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + value


def codestream(pixels, syntax, **options):
    """One frame compressed by the encoder at hand."""
    if syntax in {uid.JPEGLossless, uid.JPEGLosslessSV1}:
        return jpeg_lossless(pixels, predictor=1 if syntax == uid.JPEGLosslessSV1 else 4)
    if syntax == uid.JPEGBaseline8Bit:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=95, **options)
        return out.getvalue()
    ds = _data_set(pixels)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.PixelData = pixels.tobytes()
    plugin = {uid.RLELossless: "pydicom", uid.JPEGLSLossless: "pyjpegls", uid.JPEGLSNearLossless: "pyjpegls"}
    ds.compress(syntax, encoding_plugin=plugin.get(syntax, "pylibjpeg"), generate_instance_uid=False, **options)
    return next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))


def jpeg_lossless(pixels, predictor=1):
    """A JPEG lossless picture (ITU-T T.81 Annex H), by the left neighbour (1) or by that, above and between (4)."""
    rows, columns = pixels.shape
    bits = pixels.dtype.itemsize * 8
    values = pixels.view(f"u{pixels.dtype.itemsize}").astype(np.int64)
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (bits - 1)
    predicted[0, 1:] = values[0, :-1]
    predicted[1:, 0] = values[:-1, 0]
    left, above, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    predicted[1:, 1:] = {1: left, 4: left + above - corner}[predictor]
    written = []
    for difference in (((values - predicted + 2**15) % 2**16) - 2**15).ravel().tolist():
        # H.1.2.2: -32768 stands for 32768, of category 16, which has no further bits.
        category = abs(difference).bit_length()
        extra = difference if difference > 0 else difference + (1 << category) - 1
        written.append(f"{category:05b}" + (f"{extra:0{category}b}" if 0 < category < 16 else ""))
    stream = "".join(written)
    stream += "1" * (-len(stream) % 8)
    coded = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    # One Huffman table: the 17 categories as codes of 5 bits each.
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    segments = [
        (0xC3, struct.pack(">BHHB3B", bits, rows, columns, 1, 1, 0x11, 0)),
        (0xC4, table),
        (0xDA, bytes([1, 1, 0, predictor, 0, 0])),
    ]
    header = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return b"\xff\xd8" + header + coded + b"\xff\xd9"


def compressed(pixels, syntax, *, table=None, end=_END, fragments=1, frames=1, options=None, **elements):
    """A DICOM file of pixels compressed by the encoder at hand."""
    streams = [codestream(one, syntax, **options or {}) for one in (pixels if frames > 1 else [pixels])]
    if frames > 1:
        elements["frames"] = frames
    return encapsulated(streams, syntax, pixels, table=table, end=end, fragments=fragments, **elements)


def deflated(pixels, **elements):
    plain = native(pixels, meta=False, **elements)
    return deflated_part10(plain)


def deflated_part10(plain):
    """A Part 10 file in the deflated transfer syntax around any bytes."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return part10(squeeze.compress(plain) + squeeze.flush(), uid.DeflatedExplicitVRLittleEndian)


def picture(pixels, kind="PNG", **options):
    """A JPEG or PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def eight_bits(**size):
    return head(**size, top=255, dtype=np.uint8)


def item(**elements):
    ds = Dataset()
    for name, value in elements.items():
        _set(ds, name, value)
    return ds


def refusal(data) -> Refused:
    """The refusal that a file ends in, wherever on its way."""
    try:
        for decoded in open_scan(data).slices():
            to_raster(decoded)
    except Refused as refused:
        return refused
    raise AssertionError("it was not refused")


def reason(data) -> RefusalReason:
    return refusal(data).reason


def rasters(data) -> list[np.ndarray]:
    return [to_raster(decoded) for decoded in open_scan(data).slices()]


def raster(data) -> np.ndarray:
    (one,) = rasters(data)
    return one


@pytest.fixture(scope="session")
def make():
    """Everything that makes or reads a file in these tests."""
    return SimpleNamespace(
        head=head,
        eight_bits=eight_bits,
        native=native,
        encapsulated=encapsulated,
        codestream=codestream,
        compressed=compressed,
        deflated=deflated,
        deflated_part10=deflated_part10,
        part10=part10,
        picture=picture,
        item=item,
        refusal=refusal,
        reason=reason,
        rasters=rasters,
        raster=raster,
    )
