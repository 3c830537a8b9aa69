"""JPEG and PNG pictures, as researchers' folders hold them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import foreign, limits
from slicewise.worker.imaging.scan import Scan, Slice

# Both quote what is embedded in the file; and our own limit is far below the one that Pillow warns of.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)

_JPEG = b"\xff\xd8"
_EXIF_ORIENTATION = 0x0112

# Mean difference between the largest and the smallest channel, of 255. JPEG's chroma noise and scanned greys stay
# below 6 in the public sets; a photograph or a colour map lies far above.
_MOST_COLOUR = 12.0
# Share of pixels whose channels differ by more than 60: at most .032 in the public sets. Overlays of maps lie above.
_VIVID, _MOST_VIVID = 60, 0.05


def open_picture(data: bytes) -> Scan:
    """Open a JPEG or PNG; only its header is read now."""
    if data.startswith(_JPEG):
        limits.check_scans(data)
    with foreign.refusing(RefusalReason.UNREADABLE, "the picture's header is damaged"):
        try:
            picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise Refused(RefusalReason.TOO_LARGE, "the picture claims more pixels than are read") from None
    if getattr(picture, "n_frames", 1) > 1:
        raise Refused(RefusalReason.UNREADABLE, "several pictures in one file: save each as a file of its own")
    columns, rows = picture.size

    def slices() -> Iterator[Slice]:
        limits.check_frame(rows, columns)
        with foreign.refusing(RefusalReason.CORRUPT_PIXELS, "the picture's data is damaged"):
            made = Slice(_grey(_upright(picture)))
        yield made

    return Scan(Header(rows=rows, columns=columns, frames=1), slices)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        picture.load()
    except OSError as error:
        if "truncated" in str(error):
            raise Refused(RefusalReason.TRUNCATED_PIXELS, "the picture is cut off") from None
        raise
    if picture.getexif().get(_EXIF_ORIENTATION, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def _grey(picture: Image.Image) -> np.ndarray:
    if picture.mode in {"L", "I"} or picture.mode.startswith("I;16"):
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture.convert("L"))
    if picture.mode in {"LA", "PA", "RGBA", "P"} and picture.has_transparency_data:
        # What cannot be seen carries no signal: as dark as air.
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
    return grey_of_colour(np.asarray(picture.convert("RGB")))


def grey_of_colour(rgb: np.ndarray) -> np.ndarray:
    """``(rows, columns, 3) uint8`` to ``(rows, columns) uint8`` by ITU-R 601 luma.

    Raises
    ------
    Refused
        ``colour``: it is no grey picture stored in colour.
    """
    # Plane by plane: numpy takes 20 times as long over a last axis of 3.
    red, green, blue = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    largest = np.maximum(np.maximum(red, green), blue)
    spread = largest - np.minimum(np.minimum(red, green), blue)
    if spread.mean() > _MOST_COLOUR or (spread > _VIVID).mean() > _MOST_VIVID:
        raise Refused(RefusalReason.COLOUR, "a colour picture; a slice is grey")
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))
