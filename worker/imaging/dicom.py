"""DICOM files: parsing, frame decoding, and the standard's grey-scale pipeline (PS3.4 N.2)."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pydicom
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_color_lut, apply_voi_lut, get_decoder

from slicewise.db.reasons import RefusalReason
from slicewise.db.records import Header
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import gates, limits
from slicewise.worker.imaging.picture import grey_of_colour
from slicewise.worker.imaging.scan import Scan, Slice

# pydicom's warnings and log lines quote values of the header, which may be names (PHI).
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

_NATIVE = {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian}

# Decoders in the order they are tried; the first is the fastest that is right (measured, see docs/decisions).
_DECODERS: dict[str, tuple[str, ...]] = {
    uid.RLELossless: ("pylibjpeg", "pydicom"),
    uid.JPEGBaseline8Bit: ("pylibjpeg", "gdcm"),
    uid.JPEGExtended12Bit: ("pylibjpeg", "gdcm"),
    uid.JPEGLossless: ("gdcm", "pylibjpeg"),
    uid.JPEGLosslessSV1: ("gdcm", "pylibjpeg"),
    uid.JPEGLSLossless: ("pyjpegls", "gdcm"),
    uid.JPEGLSNearLossless: ("pyjpegls", "gdcm"),
    uid.JPEG2000Lossless: ("pylibjpeg", "gdcm"),
    uid.JPEG2000: ("pylibjpeg", "gdcm"),
    uid.HTJ2KLossless: ("pylibjpeg",),
    uid.HTJ2KLosslessRPCL: ("pylibjpeg",),
    uid.HTJ2K: ("pylibjpeg",),
}

# A display window that leaves less than this share of the picture between its ends, or saturates more than that
# share of it, hides the tissue: it was made for another purpose, or is a mistake.
_LEAST_INSIDE = 0.15
_MOST_SATURATED = 0.10


def open_dicom(data: bytes) -> Scan:
    """Parse a DICOM file and check its header; no pixel is decoded yet.

    Parameters
    ----------
    data
        PS3.10 file, or a bare data set with or without file meta information.
    """
    dataset = _parse(data)
    header = _header(dataset)
    gates.check(dataset)
    if header.rows is None or header.columns is None:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "the header gives no picture size")
    limits.check_frame(header.rows, header.columns, header.frames or 1)
    if "PixelData" not in dataset:
        raise Refused(RefusalReason.NOT_AN_IMAGE, "its pixels are floating-point values, not a picture")
    return Scan(header, lambda: _slices(dataset, header))


@contextmanager
def _foreign(reason: RefusalReason, detail: str) -> Iterator[None]:
    """Turn whatever a foreign parser or decoder raises into a refusal.

    Damaged files make pydicom and its plugins raise nearly every built-in exception (tried by fuzzing), so no
    narrower list holds; nothing of ours runs inside but the call.
    """
    try:
        yield
    except Refused:
        raise
    except (Exception, RecursionError) as error:
        raise Refused(reason, f"{detail} ({type(error).__name__})") from None


def _parse(data: bytes) -> Dataset:
    with _foreign(RefusalReason.UNREADABLE, "no DICOM data set can be read from it"):
        buffer = io.BytesIO(data)
        read_preamble(buffer, force=True)
        meta = _file_meta(buffer)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            # Inflated here, within a limit: pydicom would inflate whatever comes.
            plain = limits.inflate(buffer.read())
            dataset = pydicom.dcmread(io.BytesIO(_explicit_part10(plain)), force=True)
        else:
            buffer.seek(0)
            dataset = pydicom.dcmread(buffer, force=True)
            dataset.file_meta = meta if "TransferSyntaxUID" in meta else dataset.file_meta
        if not len(dataset):
            raise Refused(RefusalReason.UNREADABLE, "it holds no data set")
        return dataset


def _file_meta(buffer: io.BytesIO) -> FileMetaDataset:
    """Group 0002, which is always explicit little endian (PS3.10 7.1); leaves the buffer behind it."""
    meta = read_dataset(buffer, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    return FileMetaDataset(meta)


def _explicit_part10(plain: bytes) -> bytes:
    """A Part 10 file around a bare explicit little endian data set."""
    out = io.BytesIO()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(out, meta, enforce_standard=False)
    return out.getvalue() + plain


def _header(dataset: Dataset) -> Header:
    with _foreign(RefusalReason.UNREADABLE, "its header holds malformed values"):
        return Header(
            sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
            series_instance_uid=_uid(dataset, "SeriesInstanceUID"),
            study_instance_uid=_uid(dataset, "StudyInstanceUID"),
            modality=str(dataset.get("Modality") or "")[:16] or None,
            transfer_syntax_uid=_uid(dataset.file_meta, "TransferSyntaxUID"),
            rows=_integer(dataset, "Rows"),
            columns=_integer(dataset, "Columns"),
            frames=_integer(dataset, "NumberOfFrames") or 1,
        )


def _uid(dataset: Dataset, name: str) -> str | None:
    return str(dataset.get(name) or "")[:64] or None


def _integer(dataset: Dataset, name: str) -> int | None:
    value = dataset.get(name)
    return None if value is None else int(value)


def _slices(dataset: Dataset, header: Header) -> Iterator[Slice]:
    frames = header.frames or 1
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise Refused(RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX, "it does not say how its pixels are encoded")
    if syntax in _NATIVE:
        _check_length(dataset, header, frames)
    elif syntax in _DECODERS:
        _check_codestream(dataset, header)
    else:
        raise Refused(RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX, f"no decoder for {_name(syntax)}")
    # One frame at a time: 8,000 frames in a 33 MB file take 2.1 GB together.
    for index in range(frames):
        stored = _decoded(dataset, syntax, index)
        with _foreign(RefusalReason.CORRUPT_PIXELS, "its grey-scale pipeline holds malformed values"):
            made = _slice(dataset, stored, index)
        yield made


def _decoded(dataset: Dataset, syntax: str, index: int) -> np.ndarray:
    """One frame's stored values, from the first decoder that manages it."""
    decoder, failures = get_decoder(syntax), []
    for plugin in _DECODERS.get(syntax, ("",)):
        try:
            stored, _ = decoder.as_array(dataset, index=index, decoding_plugin=plugin)
        except (Exception, RecursionError) as error:  # as in _foreign
            failures.append(f"{plugin}: {type(error).__name__}" if plugin else type(error).__name__)
        else:
            return np.asarray(stored)
    # 12-bit lossy JPEG: no plugin decodes it (tried: pylibjpeg, gdcm, Pillow), so the file may well be sound.
    sound = syntax == uid.JPEGExtended12Bit
    reason = RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX if sound else RefusalReason.CORRUPT_PIXELS
    raise Refused(reason, f"frame {index + 1}, {_name(syntax)}: no decoder could read it ({', '.join(failures)})")


def _check_length(dataset: Dataset, header: Header, frames: int) -> None:
    assert header.rows is not None and header.columns is not None
    bits = int(dataset.get("BitsAllocated") or 0)
    if bits not in (8, 16, 32):
        raise Refused(RefusalReason.CORRUPT_PIXELS, f"{bits} bits a pixel cannot be read")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    needed = header.rows * header.columns * frames * samples * bits // 8
    found = len(dataset.PixelData)
    if found < needed:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, f"{found} of {needed} bytes of pixel data are there")


def _check_codestream(dataset: Dataset, header: Header) -> None:
    """A decoder allocates what the compressed picture claims, so that has to be what the header says."""
    with _foreign(RefusalReason.TRUNCATED_PIXELS, "its frames cannot be found"):
        first = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=header.frames))
    claimed = limits.codestream_size(first)
    if claimed is not None and claimed != (header.rows, header.columns):
        raise Refused(
            RefusalReason.CORRUPT_PIXELS,
            f"{header.rows} x {header.columns} pixels by the header, {claimed[0]} x {claimed[1]} by the compressed picture",
        )


def _name(syntax: str) -> str:
    known = uid.UID(syntax)
    return known.name if known.is_transfer_syntax else "an unknown transfer syntax"


def _slice(dataset: Dataset, stored: np.ndarray, index: int) -> Slice:
    photometric = dataset.get("PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        stored = apply_color_lut(stored, dataset) >> max(0, bits - 8)
    if stored.ndim == 3:
        return Slice(grey_of_colour(stored.astype(np.uint8)), frame=index + 1)
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise Refused(RefusalReason.CORRUPT_PIXELS, "no grey-scale or colour interpretation is given")
    groups = _functional_groups(dataset, index)
    values = _without_padding(dataset, _rescaled(groups, stored), stored)
    values, window = _windowed(groups, values)
    if photometric == "MONOCHROME1":
        # PS3.3 C.7.6.3.1.2: the lowest value is shown white.
        values = values.max() - values
    return Slice(values, frame=index + 1, window=window)


def _functional_groups(dataset: Dataset, index: int) -> Dataset:
    """The data set with this frame's own rescale and window (PS3.3 C.7.6.16.2.9 and .10) in their classic places."""
    merged = Dataset()
    for name in (
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
        *("PixelRepresentation", "BitsStored", "BitsAllocated"),
    ):
        if name in dataset:
            merged[name] = dataset[name]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[index : index + 1]]:
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in (group.get(macro) or [])[:1]:
                merged.update(item)
    return merged


def _rescaled(groups: Dataset, stored: np.ndarray) -> np.ndarray:
    """Modality LUT first, then the window (PS3.3 C.11.1)."""
    if groups.get("ModalityLUTSequence"):
        return np.asarray(pydicom.pixels.apply_modality_lut(stored, groups))
    slope, intercept = float(groups.get("RescaleSlope") or 1), float(groups.get("RescaleIntercept") or 0)
    if slope == 1 and intercept == 0:
        return stored
    # float64: a 16-bit value times a slope keeps every step, so equal pictures stay equal in any encoding.
    return stored.astype(np.float64) * slope + intercept


def _without_padding(dataset: Dataset, values: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Padding pixels (PS3.3 C.7.5.1.1.2) take the darkest value of the picture: they carry no signal."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return values
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    padded = (stored >= low) & (stored <= high)
    if not padded.any() or padded.all():
        return values
    rest = values[~padded]
    dark = rest.max() if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else rest.min()
    return np.where(padded, dark, values)


def _windowed(groups: Dataset, values: np.ndarray) -> tuple[np.ndarray, str]:
    """VOI LUT or the first window that shows the tissue (PS3.3 C.11.2).

    A window is a display setting. It is applied as the standard says where it keeps what can be seen, and
    passed over where it would saturate or blacken the head; the network's own scale comes after it.
    """
    if groups.get("VOILUTSequence"):
        return np.asarray(apply_voi_lut(values.astype(np.int64), groups)), "lut"
    centres, widths = _floats(groups.get("WindowCenter")), _floats(groups.get("WindowWidth"))
    exact = groups.get("VOILUTFunction", "LINEAR") != "LINEAR"
    sample = values[:: max(1, values.shape[0] // 128), :: max(1, values.shape[1] // 128)]
    for centre, width in zip(centres, widths, strict=False):
        # PS3.3 C.11.2.1.2.1: LINEAR counts the width in steps between pixel centres.
        low = centre - width / 2 if exact else centre - 0.5 - (width - 1) / 2
        high = centre + width / 2 if exact else centre - 0.5 + (width - 1) / 2
        if not high > low:
            continue
        inside = np.mean((sample > low) & (sample < high))
        if inside >= _LEAST_INSIDE and np.mean(sample >= high) <= _MOST_SATURATED:
            return np.clip(values.astype(np.float64), low, high), "applied"
    return values, "ignored" if widths else "none"


def _floats(value: object) -> list[float]:
    if value is None or value == "":
        return []
    try:
        return [float(v) for v in value]  # type: ignore[attr-defined]
    except TypeError:
        return [float(value)]  # type: ignore[arg-type]
