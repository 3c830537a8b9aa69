"""The same slice in every encoding is the same raster."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import load, open_scan

LOSSLESS = {
    "implicit": lambda make, pixels, **more: make.native(pixels, uid.ImplicitVRLittleEndian, **more),
    "explicit": lambda make, pixels, **more: make.native(pixels, uid.ExplicitVRLittleEndian, **more),
    "big endian": lambda make, pixels, **more: make.native(pixels, uid.ExplicitVRBigEndian, **more),
    "deflated": lambda make, pixels, **more: make.deflated(pixels, **more),
    "rle": lambda make, pixels, **more: make.compressed(pixels, uid.RLELossless, **more),
    "jpeg-ls": lambda make, pixels, **more: make.compressed(pixels, uid.JPEGLSLossless, **more),
    "jpeg 2000": lambda make, pixels, **more: make.compressed(pixels, uid.JPEG2000Lossless, **more),
    "jpeg lossless": lambda make, pixels, **more: make.compressed(pixels, uid.JPEGLossless, **more),
    "jpeg lossless sv1": lambda make, pixels, **more: make.compressed(pixels, uid.JPEGLosslessSV1, **more),
}
COMPRESSED = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1]

SLICES = {
    "16 bit": {"dtype": np.uint16},
    "12 bit": {"dtype": np.uint16, "top": 4095},
    "signed": {"dtype": np.int16, "top": 3000},
    "8 bit": {"dtype": np.uint8, "top": 255},
    "odd size": {"dtype": np.uint16, "rows": 137, "columns": 101},
    "odd bytes": {"dtype": np.uint8, "top": 255, "rows": 151, "columns": 99},
}


@pytest.mark.parametrize("kind", SLICES)
@pytest.mark.parametrize("encoding", LOSSLESS)
def test_lossless_encodings_are_byte_identical(make, encoding, kind):
    pixels = make.head(**SLICES[kind])
    (decoded,) = load(LOSSLESS[encoding](make, pixels))
    np.testing.assert_array_equal(decoded.pixels, pixels)
    np.testing.assert_array_equal(
        make.raster(LOSSLESS[encoding](make, pixels)), make.raster(LOSSLESS["explicit"](make, pixels))
    )


@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (uid.JPEGLSNearLossless, {"jls_error": 2}),
        (uid.JPEG2000, {"j2k_cr": [8]}),
        (uid.JPEGBaseline8Bit, {}),
    ],
)
def test_lossy_encodings_stay_close(make, syntax, options):
    pixels = make.eight_bits()
    near = make.raster(make.compressed(pixels, syntax, options=options)).astype(int)
    assert np.abs(near - make.raster(make.native(pixels))).mean() < 4


def test_jpeg_without_a_spectrum_is_read(make):
    # What encoders of 12-bit JPEG write, and no decoder takes.
    stream = make.codestream(make.eight_bits(), uid.JPEGBaseline8Bit)
    scan = stream.index(b"\xff\xda")
    broken = stream[: scan + 7] + b"\0\0\0" + stream[scan + 10 :]
    assert stream[scan + 7 : scan + 10] == b"\x00\x3f\x00"
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        sound = make.encapsulated([stream], syntax, make.eight_bits())
        repaired = make.encapsulated([broken], syntax, make.eight_bits())
        np.testing.assert_array_equal(make.raster(repaired), make.raster(sound))


def test_the_stated_transfer_syntax_is_kept(make):
    header = open_scan(make.deflated(make.head())).header
    assert header.transfer_syntax_uid == uid.DeflatedExplicitVRLittleEndian
    assert (header.rows, header.columns, header.frames, header.modality) == (160, 144, 1, "MR")
    assert header.sop_instance_uid == "1.2.826.0.1.3680043.8.498.1"


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_without_preamble(make, syntax):
    data = make.native(make.head(), syntax, preamble=None)
    assert data[128:132] != b"DICM"
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(make.head())))


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_without_file_meta_information_the_syntax_is_guessed(make, syntax):
    data = make.native(make.head(), syntax, meta=False)
    assert open_scan(data).header.transfer_syntax_uid == syntax
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(make.head())))


@pytest.mark.parametrize("start", [b"II*\0", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_a_preamble_of_another_format_is_still_dicom(make, start):
    data = make.native(make.head(), preamble=start.ljust(128, b"\0"))
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(make.head())))


@pytest.mark.parametrize("tail", [b"\0" * 600, b"\xff" * 7, b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0", b"x"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_bytes_behind_the_pixels_do_no_harm(make, syntax, tail):
    plain = make.native(make.head())
    data = plain if syntax == uid.ExplicitVRLittleEndian else make.compressed(make.head(), syntax)
    np.testing.assert_array_equal(make.raster(data + tail), make.raster(plain))


@pytest.mark.parametrize("syntax", COMPRESSED)
@pytest.mark.parametrize("table", [None, b"", b"\0\0\0\0", b"\xff" * 12, b"\x08\0\0\0\x04\0\0\0\0\0\0\0", b"odd"])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_offset_table_is_believed_only_where_it_fits(make, syntax, table, frames):
    pixels = np.stack([make.head(top=top) for top in (900, 600, 300)])[:frames]
    pixels = pixels if frames > 1 else pixels[0]
    data = make.compressed(pixels, syntax, table=table, frames=frames)
    decoded = np.stack([one.pixels for one in load(data)])
    np.testing.assert_array_equal(decoded, np.atleast_3d(pixels) if frames > 1 else pixels[None])


@pytest.mark.parametrize("table", [None, b"", b"\x10\0\0\0" * 3])
@pytest.mark.parametrize("frames", [1, 3])
def test_frames_of_several_fragments_are_put_together(make, frames, table):
    pixels = np.stack([make.head(top=top) for top in (900, 600, 300)])[:frames]
    pixels = pixels if frames > 1 else pixels[0]
    # With no table that fits, the marker at the end of each picture tells the frames apart.
    data = make.compressed(pixels, uid.JPEGLSLossless, table=table, fragments=4, frames=frames)
    decoded = np.stack([one.pixels for one in load(data)])
    np.testing.assert_array_equal(decoded, pixels if frames > 1 else pixels[None])


def test_rle_frames_that_cannot_be_told_apart_are_refused(make):
    pixels = np.stack([make.head()] * 3)
    data = make.compressed(pixels, uid.RLELossless, table=b"", fragments=4, frames=3)
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


def test_empty_fragments_do_not_shift_the_frames(make):
    streams = [make.codestream(make.head(top=top), uid.RLELossless) for top in (900, 600)]
    pixels = np.stack([make.head()] * 2)
    data = make.encapsulated(streams, uid.RLELossless, pixels, table=b"", frames=2)
    at = data.index(b"\xfe\xff\x00\xe0\0\0\0\0") + 8
    shifted = data[:at] + b"\xfe\xff\x00\xe0\0\0\0\0" + data[at:]
    assert [one.pixels.max() for one in load(shifted)] == [one.pixels.max() for one in load(data)]


def test_a_missing_end_of_the_fragments_is_no_loss(make):
    data = make.compressed(make.head(), uid.RLELossless, end=b"")
    np.testing.assert_array_equal(load(data)[0].pixels, make.head())


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_a_frame_of_another_size_is_refused_wherever_it_stands(make, syntax):
    small, large = make.head(), make.head(rows=320, columns=288)
    streams = [make.codestream(one, syntax) for one in (small, large)]
    if syntax != uid.RLELossless:  # which states no size
        assert make.reason(make.encapsulated(streams, syntax, np.stack([small] * 2), frames=2)) is (
            RefusalReason.CORRUPT_PIXELS
        )
    assert make.reason(make.encapsulated(streams[1:], syntax, small)) is RefusalReason.CORRUPT_PIXELS
    assert make.reason(make.encapsulated(streams[:1], syntax, large)) is RefusalReason.CORRUPT_PIXELS


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(lambda make: make.native(make.head(), "1.2.840.10008.1.2.4.102"), "unsupported", id="mpeg-4"),
        pytest.param(lambda make: make.native(make.head(), "1.2.840.113619.5.2"), "unsupported", id="private"),
        pytest.param(lambda make: make.native(make.head(), "1.2.3.4"), "unsupported", id="unknown"),
        pytest.param(lambda make: make.native(make.head(), uid.RLELossless), "corrupt", id="not compressed"),
        pytest.param(
            lambda make: make.encapsulated([make.head().tobytes()], uid.ExplicitVRLittleEndian, make.head()),
            "corrupt",
            id="compressed",
        ),
    ],
)
def test_a_syntax_that_cannot_be_right(make, data, expected):
    wanted = RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX if expected == "unsupported" else RefusalReason.CORRUPT_PIXELS
    assert make.reason(data(make)) is wanted


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_another_codec_than_the_syntax_says_is_refused(make, syntax):
    stream = make.codestream(make.head(), syntax)
    for other in set(COMPRESSED) - {syntax}:
        assert make.reason(make.encapsulated([stream], other, make.head())) is RefusalReason.CORRUPT_PIXELS


def test_jpeg_2000_in_a_jp2_file(make):
    # Against PS3.5 A.4.4, but met.
    wrapped = make.picture(make.eight_bits(), "JPEG2000", irreversible=False)
    assert wrapped[4:8] == b"jP  "
    (decoded,) = load(make.encapsulated([wrapped], uid.JPEG2000Lossless, make.eight_bits()))
    np.testing.assert_array_equal(decoded.pixels, make.eight_bits())
    decoy = wrapped.replace(b"ftyp", b"\xff\x4f\xff\x51")
    assert make.reason(make.encapsulated([decoy], uid.JPEG2000Lossless, make.eight_bits())) is (
        RefusalReason.CORRUPT_PIXELS
    )


@pytest.mark.parametrize("syntax", COMPRESSED)
def test_deeper_values_than_the_header_allocates_are_refused(make, syntax):
    # A decoder would write two bytes where one was allocated.
    stream = make.codestream(make.head(), syntax)
    assert make.reason(make.encapsulated([stream], syntax, make.eight_bits())) is RefusalReason.CORRUPT_PIXELS


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1])
def test_shallower_values_than_the_header_allocates_are_read(make, syntax):
    stream = make.codestream(make.eight_bits(), syntax)
    (decoded,) = load(make.encapsulated([stream], syntax, make.head(), BitsStored=8, HighBit=7))
    np.testing.assert_array_equal(decoded.pixels, make.eight_bits())


def test_planar_configuration_and_colour_models(make):
    grey = make.eight_bits()
    rgb = np.stack([grey] * 3, axis=-1)
    expected = make.raster(make.native(grey))
    planar = make.native(np.ascontiguousarray(np.moveaxis(rgb, -1, 0)).reshape(rgb.shape), PlanarConfiguration=1)
    chroma = np.full_like(grey, 128)
    ybr = make.native(np.stack([grey, chroma, chroma], axis=-1), PhotometricInterpretation="YBR_FULL")
    jpeg = make.encapsulated(
        [make.codestream(rgb, uid.JPEGBaseline8Bit, subsampling=1)],
        uid.JPEGBaseline8Bit,
        rgb,
        PhotometricInterpretation="YBR_FULL_422",
    )
    for data in (make.native(rgb), planar, ybr, make.compressed(rgb, uid.RLELossless)):
        np.testing.assert_array_equal(make.raster(data), expected)
    assert np.abs(make.raster(jpeg).astype(int) - expected).mean() < 4


def test_native_ybr_422_has_two_bytes_a_pixel(make):
    grey = make.eight_bits()
    # Y1 Y2 Cb Cr for two pixels (PS3.3 C.7.6.3.1.2).
    shared = np.full((grey.size // 2, 4), 128, np.uint8)
    shared[:, :2] = grey.reshape(-1, 2)
    data = make.native(np.stack([grey] * 3, axis=-1), PhotometricInterpretation="YBR_FULL_422", PixelData=b"", frames=1)
    at = len(data) - grey.size * 3
    value = shared.tobytes()
    sound = data[: at - 4] + len(value).to_bytes(4, "little") + value
    np.testing.assert_array_equal(make.raster(sound), make.raster(make.native(grey)))
    assert make.reason(sound[:-2]) is RefusalReason.TRUNCATED_PIXELS


@pytest.mark.parametrize("size", [{"rows": 104, "columns": 100}, {"rows": 101, "columns": 99}])
def test_bytes_in_big_endian_words(make, size):
    # PS3.5 8.1.1 and A.3: 8-bit pixels as OW are swapped in pairs.
    pixels = make.eight_bits(**size)
    data = make.native(pixels, uid.ExplicitVRBigEndian)
    start = data.rindex(b"\x7f\xe0\x00\x10OB")
    value = data[start + 12 :]
    swapped = b"".join(value[at : at + 2][::-1] for at in range(0, len(value), 2))
    (decoded,) = load(data[: start + 4] + b"OW" + data[start + 6 : start + 12] + swapped)
    np.testing.assert_array_equal(decoded.pixels, pixels)


def test_markers_of_a_jpeg_are_followed(make):
    stream = make.codestream(make.eight_bits(), uid.JPEGBaseline8Bit)
    table = stream.index(b"\xff\xdb")
    filled = stream[:table] + b"\xff\xff\xff" + stream[table:]
    expected = make.raster(make.encapsulated([stream], uid.JPEGBaseline8Bit, make.eight_bits()))
    np.testing.assert_array_equal(
        make.raster(make.encapsulated([filled], uid.JPEGBaseline8Bit, make.eight_bits())), expected
    )
    frame = stream.index(b"\xff\xc0")
    scan = stream.index(b"\xff\xda")
    for spoilt in (
        stream[:table] + b"\x00" + stream[table:],  # no marker where one belongs
        stream[:frame] + stream[frame + 19 :],  # no size
        stream[:scan],  # no picture
        stream[: frame + 4],
    ):
        reason = make.reason(make.encapsulated([spoilt], uid.JPEGBaseline8Bit, make.eight_bits()))
        assert reason in {RefusalReason.CORRUPT_PIXELS, RefusalReason.TRUNCATED_PIXELS}


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless])
def test_more_frames_than_the_header_tells_of_are_not_passed_over(make, syntax):
    pixels = make.head()
    streams = [make.codestream(pixels, syntax)] * 3
    data = make.encapsulated(streams, syntax, pixels)
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


@pytest.mark.parametrize("kind", ["HSV", "ARGB", "CMYK", "YBR_PARTIAL_420", "SMITH^JOHN", ""])
def test_a_retired_photometric_interpretation_is_refused(make, kind):
    pixels = np.repeat(make.eight_bits()[..., None], 3, axis=-1)
    refusal = make.refusal(make.native(pixels, PhotometricInterpretation=kind))
    assert refusal.reason is RefusalReason.CORRUPT_PIXELS
    assert "SMITH" not in refusal.detail


def test_values_at_the_high_end_of_their_words_are_refused(make):
    """pydicom would wrap them: a bright spot becomes a dark one."""
    pixels = (make.head() % 4096).astype(np.uint16) << 4
    assert make.reason(make.native(pixels, BitsStored=12, HighBit=15)) is RefusalReason.CORRUPT_PIXELS
    assert load(make.native(pixels >> 4, BitsStored=12, HighBit=11))
