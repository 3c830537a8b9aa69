"""The two values of imaging, and the one door: what the first bytes say decides who reads the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import likeness, limits
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
    aspect
        Height of a pixel by its width; 1 where the file does not say it.
    """

    pixels: np.ndarray
    frame: int = 1
    window: str = "none"
    aspect: float = 1.0


@dataclass(frozen=True)
class Patient:
    """Patient ID (0010,0020) and its issuer (0010,0021). Not for any log: its fields stay out of `repr`."""

    identifier: str = field(repr=False)
    issuer: str = field(default="", repr=False)


@dataclass(frozen=True)
class Scan:
    """An opened file: its header facts, and its frames on demand.

    `slices` decodes one frame at a time; a frame that alone cannot be assessed is yielded as its refusal. It raises `Refused` for the whole file where the header shows that it is no
    slice of a head by MR, before the first frame, and where a frame cannot be decoded.
    """

    header: Header
    slices: Callable[[], Iterator[Slice | Refused]]
    patient: Patient | None = None


def open_scan(data: bytes) -> Scan:
    """Open a DICOM file (with or without preamble), a JPEG or a PNG.

    Raises
    ------
    Refused
        It cannot be read; the reason code says why. Nothing of the pixels has been decoded yet.
    """
    if not data:
        raise Refused(RefusalReason.EMPTY_FILE, "the file has no bytes")
    if len(data) > limits.MAX_FILE_BYTES:
        raise Refused(RefusalReason.TOO_LARGE, f"{len(data)} bytes; at most {limits.MAX_FILE_BYTES} are read")
    # DICOM first: its preamble may hold another format's header (PS3.10 7.1).
    if data[128:132] == b"DICM" or _starts_like_a_data_set(data):
        # Imported here: what sees only pictures, as training does, never pays for pydicom.
        from slicewise.worker.imaging import dicom

        return dicom.open_dicom(data)
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        from slicewise.worker.imaging import picture

        return picture.open_picture(data)
    raise Refused(RefusalReason.UNREADABLE, "neither DICOM, JPEG nor PNG")


def load(data: bytes) -> list[Slice]:
    """Every slice of a file that can be assessed."""
    return [one for one in open_scan(data).slices() if isinstance(one, Slice)]


def to_raster(decoded: Slice) -> np.ndarray:
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
        raster = normalise(decoded.pixels, decoded.aspect)
        likeness.check(raster)
        return raster
    except Featureless as error:
        raise Refused(error.reason, str(error)) from None


def _starts_like_a_data_set(data: bytes) -> bool:
    """Whether the first element is of group 0002, or of group 0008 in either byte order, and below (gggg,0100)."""
    # PS3.10 7.1 without its preamble, or PS3.5 7.1 without file meta information too.
    little = data[:2] in {b"\x02\x00", b"\x08\x00"} and data[3:4] == b"\x00"
    big = data[:3] == b"\x00\x08\x00"
    return len(data) >= 8 and (little or big)
