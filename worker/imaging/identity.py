"""Who a data set says it is, read from its first bytes."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

from pydicom import Dataset, uid
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import foreign, silence  # noqa: F401

HEAD_BYTES = 128 * 2**10
"""Most of a data set that is looked at; what identifies it stands before its pictures and their long sequences."""

_SERIES_INSTANCE_UID = 0x0020000E
# SOP Class, SOP Instance, Study, Series: the order of `Identity`, and of a data set.
_IDENTIFYING = (0x00080016, 0x00080018, 0x0020000D, _SERIES_INSTANCE_UID)


@dataclass(frozen=True)
class Identity:
    """The UIDs as the data set gives them; None where it does not, or not within `HEAD_BYTES`."""

    sop_class_uid: str | None
    sop_instance_uid: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None


def identify(head: bytes, transfer_syntax: str) -> Identity:
    """Read the identifying elements of an encoded data set without file meta information.

    Parameters
    ----------
    head
        Its first bytes, at most `HEAD_BYTES` of which are looked at.

    Raises
    ------
    Refused
        ``unreadable`` or ``too_large``: it cannot be parsed.
    """
    with foreign.refusing(RefusalReason.UNREADABLE, "no DICOM data set can be read from it"):
        dataset = _parse(head[:HEAD_BYTES], transfer_syntax)
        return Identity(*(_uid(dataset, tag) for tag in _IDENTIFYING))


def identify_file(head: bytes) -> Identity:
    """Read the identifying elements of a file's first bytes (PS3.10 7.1), with or without preamble and file meta information.

    Raises
    ------
    Refused
        ``unreadable`` or ``too_large``: it is no such file.
    """
    # Imported here: whoever sees only data sets does without the decoders.
    from slicewise.worker.imaging.dicom import file_meta, guessed_syntax

    with foreign.refusing(RefusalReason.UNREADABLE, "no DICOM file can be read from it"):
        reading = io.BytesIO(head[:HEAD_BYTES])
        read_preamble(reading, force=True)
        meta = file_meta(reading)
        start = reading.tell()
        syntax = str(meta.get("TransferSyntaxUID") or guessed_syntax(head[start : start + 6]))
    return identify(head[start:], syntax)


def _parse(head: bytes, transfer_syntax: str) -> Dataset:
    if transfer_syntax == uid.DeflatedExplicitVRLittleEndian:
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, HEAD_BYTES)
    # Not metered, as a whole header is: the worst that 128 KiB can hold takes pydicom half a second.
    implicit, little = transfer_syntax == uid.ImplicitVRLittleEndian, transfer_syntax != uid.ExplicitVRBigEndian
    return read_dataset(io.BytesIO(head), implicit, little, stop_when=_behind)


def _behind(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > _SERIES_INSTANCE_UID


def _uid(dataset: Dataset, tag: int) -> str | None:
    # As it stands there: pydicom's own conversion and checks take as long as all the parsing. An empty value is None, and
    # one of another type is no UID.
    value = dataset.get_item(tag).value if tag in dataset else None
    text = value.decode("latin-1").rstrip("\0 ") if isinstance(value, bytes) else ""
    # PS3.5 9.1; what is no UID could be a name.
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else None
