"""JPEG and PNG pictures, as researchers' folders hold them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import limits
from slicewise.worker.imaging.scan import Scan, Slice

_EXIF_ORIENTATION = 0x0112

# Mean difference between the largest and the smallest channel, of 255. JPEG's chroma noise and scanned greys stay
# below 5 in the public sets; a photograph or a colour map lies far above.
_MOST_COLOUR = 12.0


def open_picture(data: bytes) -> Scan:
    """Open a JPEG or PNG; only its header is read now."""
    try:
        with warnings.catch_warnings():
            # Our own limit is far below Pillow's warning, and applies next.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Image.DecompressionBombError:
        raise Refused(RefusalReason.TOO_LARGE, "the picture claims more pixels than are read") from None
    except (OSError, ValueError, SyntaxError):
        raise Refused(RefusalReason.UNREADABLE, "the picture's header is damaged") from None
    columns, rows = picture.size
    limits.check_frame(rows, columns)
    header = Header(rows=rows, columns=columns, frames=1)

    def slices() -> Iterator[Slice]:
        yield Slice(_grey(picture))

    return Scan(header, slices)


def _grey(picture: Image.Image) -> np.ndarray:
    try:
        picture.load()
        if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError) as error:
        cut = "truncated" in str(error)
        reason = RefusalReason.TRUNCATED_PIXELS if cut else RefusalReason.CORRUPT_PIXELS
        raise Refused(reason, "the picture is cut off" if cut else "the picture's data is damaged") from None
    if picture.mode in {"L", "1", "I", "I;16", "F"}:
        return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    return grey_of_colour(np.asarray(picture.convert("RGB")))


def grey_of_colour(rgb: np.ndarray) -> np.ndarray:
    """``(rows, columns, 3) uint8`` to ``(rows, columns) uint8`` by ITU-R 601 luma.

    Raises
    ------
    Refused
        ``colour``: it is no grey picture stored in colour.
    """
    if (rgb.max(axis=2).astype(np.int16) - rgb.min(axis=2)).mean() > _MOST_COLOUR:
        raise Refused(RefusalReason.COLOUR, "a colour picture; a slice is grey")
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))
