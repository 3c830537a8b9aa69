"""DICOM files: parsing, header facts and frames."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from pydicom import Dataset, uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import foreign, frames, gates, greyscale, limits, silence  # noqa: F401
from slicewise.worker.imaging.frames import PixelData
from slicewise.worker.imaging.scan import Patient, Scan, Slice

_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF


def open_dicom(data: bytes) -> Scan:
    """Parse a DICOM file up to its pixels; the header is checked when its slices are asked for.

    Parameters
    ----------
    data
        PS3.10 file, or a bare data set with or without file meta information.
    """
    with foreign.refusing(RefusalReason.UNREADABLE, "no DICOM data set can be read from it"):
        dataset, pixels = _parse(data)
    with foreign.refusing(RefusalReason.UNREADABLE, "its header holds malformed values"):
        header, patient = _header(dataset), _patient(dataset)
    return Scan(header, lambda: _slices(dataset, header, pixels), patient)


def _parse(data: bytes) -> tuple[Dataset, PixelData | None]:
    buffer = limits.Metered(data[: limits.MAX_HEADER_BYTES])
    read_preamble(buffer, force=True)
    meta = file_meta(buffer)
    start = buffer.tell()
    syntax = str(meta.get("TransferSyntaxUID") or guessed_syntax(data[start : start + 6]))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data, start = limits.inflate(data[start:]), 0
    head = data[start : start + limits.MAX_HEADER_BYTES]
    dataset, pixels = _up_to_pixels(data, start, head, syntax)
    if not len(dataset):
        raise Refused(RefusalReason.UNREADABLE, "it holds no data set")
    meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.file_meta = meta
    return dataset, pixels


def file_meta(buffer: BinaryIO) -> FileMetaDataset:
    """Group 0002, which is always explicit little endian (PS3.10 7.1); leaves the buffer behind it."""
    meta = read_dataset(buffer, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    return FileMetaDataset(meta)


def guessed_syntax(first: bytes) -> str:
    """The transfer syntax of a data set that does not say it, by its first element (PS3.5 7.1)."""
    if first[4:6].decode("latin-1") not in STANDARD_VR:
        return uid.ImplicitVRLittleEndian
    # The first group is 0008, or another below 0100.
    return uid.ExplicitVRBigEndian if first[0] == 0 else uid.ExplicitVRLittleEndian


def _up_to_pixels(data: bytes, start: int, head: bytes, syntax: str) -> tuple[Dataset, PixelData | None]:
    """Parse the data set up to Pixel Data, and find that.

    What follows it (padding, signatures, rubbish) is of no use, and Pixel Data cut short is still Pixel Data.
    """
    found: list[tuple[str | None, int]] = []

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA:
            found.append((vr, length))
        return bool(found)

    buffer = limits.Metered(head)
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    try:
        dataset = read_dataset(buffer, implicit, little, stop_when=at_pixels)
    finally:
        buffer.check()
    if not found:
        if len(data) - start > len(head):
            raise Refused(RefusalReason.TOO_LARGE, f"its header has more than {limits.MAX_HEADER_BYTES} bytes")
        if any(isinstance(one, RawDataElement) and one.length > len(one.value or b"") for one in dataset.values()):
            raise Refused(RefusalReason.UNREADABLE, "its header is cut off")
        return dataset, None
    ((vr, length),) = found
    # Tag and length; an explicit OB or OW has 2 bytes of VR, 2 reserved and 4 of length (PS3.5 7.1.2).
    at = start + buffer.tell() + (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)
    undefined = length == _UNDEFINED
    value = memoryview(data)[at:] if undefined else memoryview(data)[at : at + length]
    return dataset, PixelData(vr or "OW", value, undefined)


def _header(dataset: Dataset) -> Header:
    return Header(
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
        study_instance_uid=_uid(dataset, "StudyInstanceUID"),
        modality=gates.modality(dataset),
        transfer_syntax_uid=_uid(dataset.file_meta, "TransferSyntaxUID"),
        rows=_count(dataset, "Rows"),
        columns=_count(dataset, "Columns"),
        frames=_count(dataset, "NumberOfFrames") or 1,
    )


def _patient(dataset: Dataset) -> Patient | None:
    identifier, issuer = (str(dataset.get(name) or "").strip() for name in ("PatientID", "IssuerOfPatientID"))
    return Patient(identifier, issuer) if identifier else None


def _uid(dataset: Dataset, name: str) -> str | None:
    # PS3.5 9.1. Anything else in this place could be a name, and two cut to one length could be the same.
    text = str(dataset.get(name) or "")
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else None


def _count(dataset: Dataset, name: str) -> int | None:
    value = dataset.get(name)
    if value is None or value == "":
        return None
    number = int(value)
    if not 0 <= number < 2**31:
        raise ValueError(name)
    return number


def _slices(dataset: Dataset, header: Header, pixels: PixelData | None) -> Iterator[Slice | Refused]:
    with foreign.refusing(RefusalReason.UNREADABLE, "its header holds malformed values"):
        gates.check(dataset, has_pixels=pixels is not None)
    if header.rows is None or header.columns is None:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "the header gives no picture size")
    limits.check_frame(header.rows, header.columns, header.frames or 1)
    if pixels is None:
        raise Refused(RefusalReason.NOT_AN_IMAGE, "its pixels are floating-point values, not a picture")
    # One frame at a time: 8,000 frames in a 33 MB file take 2.1 GB together.
    for index, stored in enumerate(frames.decoded(dataset, pixels, header)):
        try:
            gates.check_frame(dataset, index)
        except Refused as refusal:
            yield refusal
            continue
        with foreign.refusing(RefusalReason.CORRUPT_PIXELS, "its grey-scale pipeline holds malformed values"):
            made = greyscale.to_slice(dataset, stored, index)
        yield made
