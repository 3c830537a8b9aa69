"""Stored values to a grey slice: the standard's pipeline (PS3.4 N.2), frame by frame."""

from __future__ import annotations

import itertools
import math

import numpy as np
from pydicom import Dataset

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging.picture import grey_of_colour
from slicewise.worker.imaging.scan import Slice

# A display window that leaves less than this share of the picture between its ends, or saturates more than that
# share of it, hides the tissue: it was made for another purpose, or is a mistake.
_LEAST_INSIDE = 0.15
_MOST_SATURATED = 0.10

# A rescale beyond this is no unit of measurement but a mistake, and would overflow.
_LARGEST_SCALE = 1e15

# No attribute here has more values of use: windows, mostly.
_MOST_NUMBERS = 16

# A pixel of a slice is never longer than this many times its width: beyond it the spacing is a mistake.
_LARGEST_ASPECT = 4.0

# Functional groups (PS3.3 C.7.6.16.2.1, .9 and .10) that hold what classic objects have at the top.
_MACROS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")


class _Frame:
    """One frame's attributes: its own functional groups first, then the shared ones, then the data set."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
        groups = [*per_frame[index : index + 1], *shared[:1]]
        macros = [item for group in groups for name in _MACROS for item in (group.get(name) or [])[:1]]
        self._places: list[Dataset] = [*macros, dataset]

    def get(self, name: str) -> object:
        """Value of an attribute, None where it is absent or empty."""
        values = (place.get(name) for place in self._places)
        return next((value for value in values if value is not None and value != ""), None)

    def item(self, name: str) -> Dataset | None:
        """First item of a sequence."""
        items = (place.get(name) for place in self._places)
        return next((found[0] for found in items if found), None)

    def numbers(self, name: str) -> list[float]:
        """Values of a numeric attribute, of which there may be none, one or many."""
        value = self.get(name)
        if value is None:
            return []
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            return [float(value)]  # type: ignore[arg-type]
        return [float(one) for one in itertools.islice(value, _MOST_NUMBERS)]

    def settings(self, name: str) -> list[float]:
        """As `numbers`, and none where they are malformed: for what only displays the values.

        A decimal comma, mostly.
        """
        try:
            return self.numbers(name)
        except (ValueError, TypeError):
            return []


def to_slice(dataset: Dataset, stored: np.ndarray, index: int) -> Slice:
    """Bring one decoded frame to grey values that rise with the signal.

    Parameters
    ----------
    dataset
        The whole data set.
    stored : numpy.ndarray
        ``(rows, columns)`` stored values, or ``(rows, columns, 3)`` RGB; of the frame only.
    index
        Of the frame, from 0.

    Raises
    ------
    Refused
        ``corrupt_pixels`` or ``colour``.
    """
    frame = _Frame(dataset, index)
    aspect = _aspect(frame)
    photometric = dataset.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        stored = _palette(dataset, stored)
    if stored.ndim == 3:
        return Slice(grey_of_colour(_eight_bits(dataset, stored)), index + 1, aspect=aspect)
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "no grey-scale or colour interpretation is given")
    inverted = photometric == "MONOCHROME1"
    values = _without_padding(frame, _rescaled(dataset, frame, stored), stored, inverted=inverted)
    values, window = _windowed(dataset, frame, values)
    # PS3.3 C.7.6.3.1.2: MONOCHROME1 shows the lowest value white.
    return Slice(_negative(values) if inverted else values, index + 1, window, aspect)


def _aspect(frame: _Frame) -> float:
    """Height of a pixel by its width (PS3.3 10.7.1.3 Pixel Spacing, C.7.6.3.1.7 Pixel Aspect Ratio)."""
    pair = frame.settings("PixelSpacing") or frame.settings("PixelAspectRatio")
    if len(pair) != 2 or not all(math.isfinite(side) and side > 0 for side in pair):
        return 1.0
    aspect = pair[0] / pair[1]
    return aspect if 1 / _LARGEST_ASPECT <= aspect <= _LARGEST_ASPECT else 1.0


def _eight_bits(dataset: Dataset, colours: np.ndarray) -> np.ndarray:
    if colours.dtype == np.uint8:
        return colours
    return (colours >> max(0, int(dataset.BitsStored) - 8)).astype(np.uint8)


def _palette(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.5 and .6; ``(rows, columns, 3) uint8``."""
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        channels.append(_looked_up(dataset, stored, dataset[f"{name}Descriptor"].value, dataset[f"{name}Data"].value))
    colours = np.stack(channels, axis=-1)
    # Entries of 16 bits; some writers put 8 into them.
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _looked_up(dataset: Dataset, values: np.ndarray, descriptor: object, data: object) -> np.ndarray:
    """Values through a lookup table (PS3.3 C.11.1.1.1): what lies outside takes its first or last entry."""
    entries, first, _bits = (int(number) for number in descriptor)  # type: ignore[attr-defined]
    entries = entries or 2**16
    if isinstance(data, bytes):
        # 8-bit entries are packed in pairs into the 16-bit words.
        packed = len(data) <= entries + entries % 2
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8) if packed else np.frombuffer(data[: 2 * entries], f"{order}u2")
    else:
        table = np.asarray(data, np.uint16)
    if not 1 <= entries <= table.size:
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"a lookup table of {entries} entries holds {table.size}")
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return np.asarray(table.astype(np.uint16)[at])


def _rescaled(dataset: Dataset, frame: _Frame, stored: np.ndarray) -> np.ndarray:
    """Modality LUT first, then the window (PS3.3 C.11.1)."""
    table = frame.item("ModalityLUTSequence")
    if table is not None:
        return _looked_up(dataset, stored, table.LUTDescriptor, table.LUTData)
    # A slope of 0 would leave nothing; it stands for "none" in files that have it.
    slope = next(iter(frame.numbers("RescaleSlope")), 1.0) or 1.0
    intercept = next(iter(frame.numbers("RescaleIntercept")), 0.0)
    if slope == 1 and intercept == 0:
        return stored
    if not (1 / _LARGEST_SCALE < abs(slope) < _LARGEST_SCALE and abs(intercept) < _LARGEST_SCALE):
        raise Refused(RefusalReason.CORRUPT_PIXELS, "its rescale slope or intercept is no sensible number")
    values = _real(stored)
    np.multiply(values, slope, out=values)
    return np.asarray(np.add(values, intercept, out=values))


def _real(values: np.ndarray) -> np.ndarray:
    """Values as floating-point numbers that hold each of them, so that equal pictures stay equal in any encoding.

    The array is ours to overwrite: stored values are integers and get copied.
    """
    if np.issubdtype(values.dtype, np.floating):
        return values
    return values.astype(np.float32 if values.itemsize <= 2 else np.float64)


def _without_padding(frame: _Frame, values: np.ndarray, stored: np.ndarray, *, inverted: bool) -> np.ndarray:
    """Padding pixels (PS3.3 C.7.5.1.1.2) take the darkest value of the picture: they carry no signal."""
    ends = [*frame.numbers("PixelPaddingValue")[:1], *frame.numbers("PixelPaddingRangeLimit")[:1]]
    if not ends:
        return values
    padded = stored == ends[0] if len(set(ends)) == 1 else (stored >= min(ends)) & (stored <= max(ends))
    if not padded.any() or padded.all():
        return values
    shown, hidden = values[~padded], values[padded]
    darkest = shown.max() if inverted else shown.min()
    if not inverted and hidden.min() >= 0 and hidden.max() <= darkest:
        # It is air already: 0 and below the tissue, as in most MR, where it may be declared padding or not.
        return values
    return np.where(padded, darkest, values)


def _windowed(dataset: Dataset, frame: _Frame, values: np.ndarray) -> tuple[np.ndarray, str]:
    """VOI LUT or the first window that shows the tissue (PS3.3 C.11.2).

    A window is a display setting. It is applied as the standard says where it keeps what can be seen, and
    passed over where it would saturate or blacken the head; the network's own scale comes after it.
    """
    table = frame.item("VOILUTSequence")
    if table is not None:
        return _looked_up(dataset, values, table.LUTDescriptor, table.LUTData), "lut"
    centres, widths = frame.settings("WindowCenter"), frame.settings("WindowWidth")
    function = frame.get("VOILUTFunction") or "LINEAR"
    sample = values[:: max(1, values.shape[0] // 128), :: max(1, values.shape[1] // 128)]
    for centre, width in zip(centres, widths, strict=False):
        if function == "LINEAR":
            # PS3.3 C.11.2.1.2.1: it counts the width in steps between pixel centres.
            centre, width = centre - 0.5, width - 1  # noqa: PLW2901
        low, high = centre - width / 2, centre + width / 2
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            continue
        inside = np.mean((sample > low) & (sample < high))
        if inside < _LEAST_INSIDE or np.mean(sample >= high) > _MOST_SATURATED:
            continue
        if function == "SIGMOID":
            return _sigmoid(values, centre, width), "applied"
        real = _real(values)
        return np.clip(real, low, high, out=real), "applied"
    return values, "none" if frame.get("WindowWidth") is None else "ignored"


def _sigmoid(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.3.1."""
    # Beyond 8 widths it has reached its ends to 14 digits; far more would overflow.
    steps = np.clip((values.astype(np.float64) - centre) / width, -8, 8)
    return np.asarray(1 / (1 + np.exp(-4 * steps)))


def _negative(values: np.ndarray) -> np.ndarray:
    if np.issubdtype(values.dtype, np.integer):
        # The range of a signed type does not fit the type.
        values = values.astype(np.int64)
    return np.asarray(values.max() - values)
