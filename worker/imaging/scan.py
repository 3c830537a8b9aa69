"""The two values of imaging, and the one door: what the first bytes say decides who reads the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import limits
from slicewise.worker.imaging.raster import Featureless, normalise


@dataclass(frozen=True)
class Slice:
    """One decoded frame.

    Parameters
    ----------
    pixels
        ``(rows, columns)``, grey, any real dtype, brighter is more signal (MONOCHROME2), in the units that the
        Modality LUT gives, clipped to the display window where `window` says so.
    frame
        From 1, as in DICOM.
    window
        How the VOI was treated: ``none``, ``applied``, ``lut`` or ``ignored`` (it would have hidden the tissue).
    """

    pixels: np.ndarray
    frame: int = 1
    window: str = "none"


@dataclass(frozen=True)
class Scan:
    """An opened file: its header facts, and its frames on demand.

    `slices` decodes one frame at a time and raises `Refused` for the whole file when one cannot be decoded.
    """

    header: Header
    slices: Callable[[], Iterator[Slice]]


def open_scan(data: bytes) -> Scan:
    """Open a DICOM file (with or without preamble), a JPEG or a PNG.

    Raises
    ------
    Refused
        It cannot be assessed; the reason code says why. Nothing of the pixels has been decoded yet.
    """
    # Imported here: a worker that sees only pictures never pays for pydicom.
    if not data:
        raise Refused(RefusalReason.EMPTY_FILE, "the file has no bytes")
    if len(data) > limits.MAX_FILE_BYTES:
        raise Refused(RefusalReason.TOO_LARGE, f"{len(data)} bytes; at most {limits.MAX_FILE_BYTES} are read")
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        from slicewise.worker.imaging import picture

        return picture.open_picture(data)
    if data[128:132] == b"DICM" or _starts_like_a_data_set(data):
        from slicewise.worker.imaging import dicom

        return dicom.open_dicom(data)
    raise Refused(RefusalReason.UNREADABLE, "neither DICOM, JPEG nor PNG")


def load(data: bytes) -> list[Slice]:
    """Every slice of a file."""
    return list(open_scan(data).slices())


def to_raster(slice: Slice) -> np.ndarray:
    """Bring a slice to the network's input.

    Returns
    -------
    numpy.ndarray
        ``(150, 150) uint8`` in [0, 255]; see `slicewise.worker.imaging.raster.normalise`.

    Raises
    ------
    Refused
        ``blank`` or ``no_head``: nothing in the picture could be a head.
    """
    try:
        return normalise(slice.pixels)
    except Featureless as error:
        raise Refused(error.reason, str(error)) from None


def _starts_like_a_data_set(data: bytes) -> bool:
    """Whether the first element could be of group 0002 or 0008, in either byte order (PS3.10 7.1 without preamble)."""
    return data[:4] in {b"\x02\x00\x00\x00", b"\x02\x00\x01\x00", b"\x02\x00\x02\x00", b"\x02\x00\x10\x00"} or (
        data[:2] in {b"\x08\x00", b"\x00\x08"} and len(data) >= 8 and data[3 if data[0] else 2] == 0
    )
