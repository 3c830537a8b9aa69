"""Whatever a file's bytes are, it gives rasters or a coded refusal, and nothing else."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid

from slicewise.worker.errors import Refused
from slicewise.worker.imaging import open_scan, to_raster
from tests.fuzzing import examples

HEAD = {"rows": 104, "columns": 100}

SEEDS = {
    "explicit": lambda make: make.native(
        make.head(**HEAD, dtype=np.int16),
        WindowCenter=[500, 20],
        WindowWidth=[900, 5],
        PixelPaddingValue=0,
        PixelSpacing=[1, 2],
        RescaleSlope=2,
        RescaleIntercept=-3,
        BodyPartExamined="BRAIN",
    ),
    "implicit": lambda make: make.native(
        make.head(**HEAD),
        uid.ImplicitVRLittleEndian,
        VOILUTSequence=[make.item(LUTDescriptor=[800, 100, 16], LUTData=bytes(range(100)) * 16)],
        ModalityLUTSequence=[make.item(LUTDescriptor=[1000, 0, 16], LUTData=np.arange(1000, dtype="<u2").tobytes())],
    ),
    "big endian": lambda make: make.native(make.eight_bits(**HEAD), uid.ExplicitVRBigEndian),
    "deflated": lambda make: make.deflated(make.eight_bits(**HEAD)),
    "no preamble": lambda make: make.native(make.eight_bits(**HEAD), preamble=None),
    "bare": lambda make: make.native(make.eight_bits(**HEAD), uid.ImplicitVRLittleEndian, meta=False),
    "colour": lambda make: make.native(np.stack([make.eight_bits(**HEAD)] * 3, axis=-1)),
    "palette": lambda make: make.native(
        make.eight_bits(**HEAD),
        PhotometricInterpretation="PALETTE COLOR",
        **{f"{c}PaletteColorLookupTableDescriptor": [256, 0, 8] for c in ("Red", "Green", "Blue")},
        **{f"{c}PaletteColorLookupTableData": bytes(range(256)) for c in ("Red", "Green", "Blue")},
    ),
    "enhanced": lambda make: make.native(
        np.stack([make.eight_bits(**HEAD)] * 2),
        frames=2,
        PerFrameFunctionalGroupsSequence=[
            make.item(
                PixelValueTransformationSequence=[make.item(RescaleSlope=2, RescaleIntercept=1)],
                FrameVOILUTSequence=[make.item(WindowCenter=200, WindowWidth=400)],
            )
        ]
        * 2,
    ),
    "rle": lambda make: make.compressed(np.stack([make.head(**HEAD)] * 2), uid.RLELossless, frames=2),
    "jpeg-ls": lambda make: make.compressed(make.head(**HEAD), uid.JPEGLSLossless, fragments=3),
    "jpeg 2000": lambda make: make.compressed(make.head(**HEAD), uid.JPEG2000Lossless),
    "jpeg lossless": lambda make: make.compressed(make.head(**HEAD), uid.JPEGLosslessSV1),
    "jpeg baseline": lambda make: make.compressed(make.eight_bits(**HEAD), uid.JPEGBaseline8Bit),
    "jpeg file": lambda make: make.picture(make.eight_bits(**HEAD), "JPEG"),
    "progressive jpeg file": lambda make: make.picture(make.eight_bits(**HEAD), "JPEG", progressive=True),
    "png file": lambda make: make.picture(make.head(**HEAD)),
    "png file of a palette": lambda make: make.picture(make.eight_bits(**HEAD) // 16 * 16, "PNG", optimize=True),
}

# Most positions fall into the header, where the meaning is.
POSITION = st.one_of(st.integers(0, 300), st.integers(0, 3000), st.integers(0, 60_000))
BYTES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xfe\xff\xff\xff", b"\x7f", b"\x80", b"\\", b"-", b"\xfe\xff\x00\xe0"]),
)
CHANGE = st.tuples(st.sampled_from(["overwrite", "insert", "delete", "cut", "repeat"]), POSITION, BYTES)


def changed(data, changes):
    for kind, position, new in changes:
        at = position % max(1, len(data))
        if kind == "overwrite":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + len(new) :]
        elif kind == "repeat":
            data = data[: at + 50] + data[at:]
        else:
            data = data[: max(at, len(data) - position)]
    return data


@pytest.fixture(scope="module")
def seeds(make):
    return {name: maker(make) for name, maker in SEEDS.items()}


def test_the_seeds_are_sound(make, seeds):
    for data in seeds.values():
        assert make.rasters(data)


@settings(
    max_examples=examples(1500),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(sorted(SEEDS)), changes=st.lists(CHANGE, min_size=1, max_size=6))
def test_changed_bytes_give_rasters_or_a_refusal(seeds, name, changes):
    with contextlib.suppress(Refused):
        for decoded in open_scan(changed(seeds[name], changes)).slices():
            with contextlib.suppress(Refused):
                raster = to_raster(decoded)
                assert (raster.shape, raster.dtype) == ((150, 150), np.uint8)
