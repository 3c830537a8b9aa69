"""A compressed stream cut short is never taken for a picture: most decoders would fill in the rest themselves."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import open_scan

CUT = {RefusalReason.TRUNCATED_PIXELS, RefusalReason.CORRUPT_PIXELS}
SYNTAXES = [
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


def stream_of(make, syntax):
    pixels = make.eight_bits() if syntax == uid.JPEGBaseline8Bit else make.head()
    return make.codestream(pixels, syntax), pixels


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("tenth", range(10))
def test_a_stream_cut_within_its_fragment(make, syntax, tenth):
    stream, pixels = stream_of(make, syntax)
    data = make.encapsulated([stream[: len(stream) * tenth // 10]], syntax, pixels)
    assert make.reason(data) in CUT


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("tenth", range(10))
def test_a_file_cut_within_its_pixels(make, syntax, tenth):
    stream, pixels = stream_of(make, syntax)
    data = make.encapsulated([stream], syntax, pixels)
    assert make.reason(data[: len(data) - len(stream) + len(stream) * tenth // 10 - 20]) in CUT


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_stream_cut_and_ended_anew(make, syntax, tenth):
    # In JPEG's own entropy coding the gap cannot be told from a flat rest, so it is not listed.
    stream, pixels = stream_of(make, syntax)
    data = make.encapsulated([stream[: len(stream) * tenth // 10] + b"\xff\xd9"], syntax, pixels)
    assert make.reason(data) in CUT


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_last_frame_is_missing(make, syntax):
    stream, pixels = stream_of(make, syntax)
    whole = make.encapsulated([stream] * 3, syntax, np.stack([pixels] * 3), frames=3)
    assert make.reason(whole[: -len(stream) - 20]) is RefusalReason.TRUNCATED_PIXELS


def test_nothing_is_yielded_of_a_file_whose_fragments_do_not_add_up(make):
    stream, pixels = stream_of(make, uid.JPEGLSLossless)
    data = make.encapsulated([stream] * 2, uid.JPEGLSLossless, np.stack([pixels] * 3), frames=3)
    slices = open_scan(data).slices()
    with pytest.raises(Refused):
        next(slices)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_native_pixels_cut(make, syntax, share):
    data = make.native(make.head(), syntax)
    size = make.head().nbytes
    assert make.reason(data[: len(data) - size + int(size * share)]) is RefusalReason.TRUNCATED_PIXELS


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_header_cut(make, share):
    data = make.native(make.head(), SeriesDescription="T1 BRAIN " * 6)
    start = data.rindex(b"\xe0\x7f\x10\x00")
    assert make.reason(data[: int(132 + (start - 132) * share)]) in {
        RefusalReason.UNREADABLE,
        RefusalReason.NOT_AN_IMAGE,
    }


def test_tile_parts_are_followed_and_their_lengths_believed_only_within_the_stream(make):
    stream = make.codestream(make.head(), uid.JPEG2000Lossless)
    at = stream.index(b"\xff\x90") + 6
    for size in (0, len(stream) * 2, 0xFFFFFFFF):
        lying = stream[:at] + size.to_bytes(4, "big") + stream[at + 4 :]
        data = make.encapsulated([lying], uid.JPEG2000Lossless, make.head())
        if size:
            assert make.reason(data) in CUT
        else:  # up to the end, which is there
            assert make.raster(data).any()
    unended = stream[:at] + b"\0\0\0\0" + stream[at + 4 : -2]
    assert make.reason(make.encapsulated([unended], uid.JPEG2000Lossless, make.head())) in CUT
