"""JPEG and PNG files."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import load, open_scan

HEAD = {"rows": 128, "columns": 112}


def only(data):
    (decoded,) = load(data)
    return decoded


def png(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def chunk(kind, body):
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def test_png_is_lossless(make):
    data = make.picture(make.eight_bits(**HEAD))
    np.testing.assert_array_equal(only(data).pixels, make.eight_bits(**HEAD))
    header = open_scan(data).header
    assert (header.rows, header.columns, header.frames, header.sop_instance_uid) == (128, 112, 1, None)


def test_sixteen_bit_png_keeps_its_depth(make):
    np.testing.assert_array_equal(only(make.picture(make.head(**HEAD))).pixels, make.head(**HEAD))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_any_mode_is_the_same(make, mode):
    grey = Image.fromarray(make.eight_bits(**HEAD))
    image = grey.quantize(256) if mode == "P" else grey.convert(mode)
    if mode == "P":
        image = Image.fromarray(make.eight_bits(**HEAD))
        image.putpalette([level for level in range(256) for _ in range(3)])
    assert only(png(image)).pixels.dtype == np.uint8
    np.testing.assert_array_equal(only(png(image)).pixels, make.eight_bits(**HEAD))


def test_one_bit_is_black_and_white(make):
    image = Image.fromarray(make.eight_bits(**HEAD)).convert("1")
    assert set(np.unique(only(png(image)).pixels)) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_cannot_be_seen_is_dark(make, mode):
    image = Image.fromarray(make.eight_bits(**HEAD)).convert(mode)
    alpha = np.full((128, 112), 255, np.uint8)
    alpha[:, :30] = 0
    white = Image.new(mode, image.size, "white")
    white.putalpha(Image.fromarray(alpha))
    pixels = only(png(white)).pixels
    assert (pixels[:, :30].max(), pixels[:, 30:].min()) == (0, 255)


def test_a_transparent_palette_entry_is_dark(make):
    image = Image.fromarray(np.maximum(make.eight_bits(**HEAD), 1))
    image.putpalette([level for level in range(256) for _ in range(3)])
    decoded = only(png(image, transparency=232)).pixels
    assert 232 not in decoded


def test_jpeg_is_close(make):
    for options in ({}, {"progressive": True}):
        decoded = only(make.picture(make.eight_bits(**HEAD), "JPEG", quality=95, **options)).pixels
        assert np.abs(decoded.astype(int) - make.eight_bits(**HEAD)).mean() < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(make, orientation):
    upright = Image.fromarray(make.eight_bits(**HEAD))
    # What a camera stores so that obeying the flag gives the upright picture.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(only(png(stored, exif=exif)).pixels, make.eight_bits(**HEAD))


def test_colour_is_refused_and_a_tint_is_not(make):
    grey = make.eight_bits(**HEAD).astype(int)
    tint = np.stack([grey, np.clip(grey - 4, 0, 255), np.clip(grey + 4, 0, 255)], axis=-1).astype(np.uint8)
    colour = np.stack([grey, grey // 4, 255 - grey], axis=-1).astype(np.uint8)
    assert only(make.picture(tint)).pixels.shape == (128, 112)
    assert make.reason(make.picture(colour)) is RefusalReason.COLOUR
    assert make.reason(make.picture(colour, "JPEG")) is RefusalReason.COLOUR


def test_cmyk_jpeg(make):
    out = io.BytesIO()
    Image.fromarray(make.eight_bits(**HEAD)).convert("CMYK").save(out, "JPEG", quality=95)
    assert np.abs(only(out.getvalue()).pixels.astype(int) - make.eight_bits(**HEAD)).mean() < 5


@pytest.mark.parametrize("size", [(95, 200), (200, 95), (1, 1)])
def test_too_small(make, size):
    assert make.reason(make.picture(np.zeros(size, np.uint8))) is RefusalReason.TOO_SMALL


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_cut_jpeg_is_refused(make, tenth, options):
    data = make.picture(make.eight_bits(**HEAD), "JPEG", quality=90, **options)
    assert make.reason(data[: len(data) * tenth // 10]) in {
        RefusalReason.UNREADABLE,
        RefusalReason.TRUNCATED_PIXELS,
        RefusalReason.CORRUPT_PIXELS,
    }


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_cut_png_is_refused(make, tenth, interlaced):
    data = make.picture(make.eight_bits(**HEAD))
    if interlaced:  # Pillow writes none: the flag alone makes the data too short
        data = data[:28] + b"\1" + struct.pack(">L", zlib.crc32(data[12:28] + b"\1")) + data[33:]
    assert make.reason(data[: len(data) * tenth // 10]) in {
        RefusalReason.UNREADABLE,
        RefusalReason.TRUNCATED_PIXELS,
        RefusalReason.CORRUPT_PIXELS,
    }


def test_a_jpeg_that_ends_early_with_its_end_marker(make):
    data = make.picture(make.eight_bits(**HEAD), "JPEG", quality=90)
    # The decoder fills the rest with grey and says nothing that Pillow would hear.
    assert len(load(data[: len(data) // 2] + b"\xff\xd9")) == 1


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tIME"])
def test_rubbish_in_the_chunks_beside_the_pixels(make, kind):
    data = make.picture(make.eight_bits(**HEAD))
    for body in (b"", b"x", b"Name\0\0" + b"\xff" * 40, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 50):
        spoilt = data[:33] + chunk(kind, body) + data[33:]
        try:
            np.testing.assert_array_equal(only(spoilt).pixels, make.eight_bits(**HEAD))
        except AssertionError:
            raise
        except Exception:
            assert make.reason(spoilt) in {RefusalReason.UNREADABLE, RefusalReason.CORRUPT_PIXELS}


@pytest.mark.parametrize("kind", ["PNG", "MPO"])
def test_of_several_pictures_in_one_file_none_is_passed_over(make, kind):
    first, second = (Image.fromarray(make.eight_bits(**HEAD) // part).convert("RGB") for part in (1, 2))
    data = io.BytesIO()
    first.save(data, kind, save_all=True, append_images=[second])
    assert make.reason(data.getvalue()) is RefusalReason.UNREADABLE


@pytest.mark.parametrize(("side", "refused"), [(0, False), (12, False), (40, True)])
def test_a_vivid_overlay_is_no_slice(make, side, refused):
    """A map of activation laid over a grey picture; a small coloured mark is none."""
    colour = np.repeat(make.eight_bits(rows=160, columns=160)[..., None], 3, axis=-1)
    colour[60 : 60 + side, 60 : 60 + side] = (255, 40, 0)
    data = png(Image.fromarray(colour))
    assert (make.reason(data) is RefusalReason.COLOUR) if refused else only(data)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_picture_formats_are_unreadable(make, kind):
    assert make.reason(make.picture(make.eight_bits(**HEAD), kind)) is RefusalReason.UNREADABLE
