"""The standard's grey-scale pipeline: rescale, padding, window, photometric interpretation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import load

HEAD = {"rows": 128, "columns": 112}


@pytest.fixture
def plain(make):
    return make.raster(make.native(make.head(**HEAD)))


def only(data):
    (decoded,) = load(data)
    return decoded


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_signed_values_with_an_intercept_are_the_same_picture(make, plain, syntax):
    data = make.native(make.head(**HEAD).astype(np.int16) - 1024, syntax, RescaleSlope=1, RescaleIntercept=1024)
    assert (only(data).pixels.min(), only(data).pixels.max()) == (0, 910)
    np.testing.assert_array_equal(make.raster(data), plain)


def test_a_slope_gives_the_unit(make):
    data = make.native(make.head(**HEAD), RescaleSlope="2.5", RescaleIntercept="-7")
    np.testing.assert_allclose(only(data).pixels, make.head(**HEAD) * 2.5 - 7)


def test_a_slope_of_zero_stands_for_none(make, plain):
    np.testing.assert_array_equal(make.raster(make.native(make.head(**HEAD), RescaleSlope=0)), plain)


@pytest.mark.parametrize("number", ["nan", "inf", "1e300", "-1E400", b"abc"])
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_is_no_number_of_this_world_is_refused(make, name, number):
    elements = {"RescaleSlope": 1, "RescaleIntercept": 1} | {name: number}
    assert make.reason(make.native(make.head(**HEAD), **elements)) is RefusalReason.CORRUPT_PIXELS


def test_a_slope_too_small_for_any_unit_is_refused(make):
    data = make.native(make.head(**HEAD), RescaleSlope="1e-300", RescaleIntercept=0)
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_every_depth(make, dtype):
    top = 255 if dtype is np.uint8 else 1000
    expected = make.raster(make.native(make.head(**HEAD, top=top)))
    data = make.native(make.head(**HEAD, top=top, dtype=dtype))
    assert only(data).pixels.dtype == dtype
    np.testing.assert_array_equal(make.raster(data), expected)


def test_twelve_bits_in_sixteen_with_an_overlay_above_them(make, plain):
    pixels = make.head(**HEAD)
    assert pixels.max() < 4096
    data = make.native(pixels | 0x8000, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(make.raster(data), plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32])
def test_monochrome1_is_turned_over(make, dtype):
    top = 255 if dtype is np.uint8 else 1000
    pixels = make.head(**HEAD, top=top, dtype=dtype)
    data = make.native(pixels.max() - pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(pixels)))


def test_monochrome1_over_the_whole_range_of_a_signed_type(make):
    pixels = make.head(**HEAD, top=65535, dtype=np.int64)
    upright = (pixels - 32768).astype(np.int16)
    data = make.native(np.invert(upright), PhotometricInterpretation="MONOCHROME1")
    assert make.head(**HEAD, top=65535, dtype=np.int64).max() > 2**15
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(upright)))


def test_monochrome1_with_a_window(make):
    pixels = make.head(**HEAD)
    data = make.native(
        pixels.max() - pixels, PhotometricInterpretation="MONOCHROME1", WindowCenter=500, WindowWidth=2000
    )
    assert only(data).window == "applied"
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(pixels)))


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("value", "more"),
    [(-2000, {}), (-2000, {"PixelPaddingRangeLimit": -1500}), (-1500, {"PixelPaddingRangeLimit": -2000})],
)
def test_padding_takes_the_darkest_value(make, plain, syntax, value, more):
    pixels = make.head(**HEAD, dtype=np.int16)
    pixels[:, :20] = -2000
    # Ambiguous VRs: pydicom writes them by Pixel Representation.
    data = make.native(pixels, syntax, PixelPaddingValue=value, **more)
    assert only(data).pixels.min() == 0
    without = make.head(**HEAD)
    without[:, :20] = 0
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(without)))


def test_padding_of_a_monochrome1_picture(make):
    pixels = make.head(**HEAD, dtype=np.int16)
    turned = pixels.max() - pixels
    turned[:, :10] = -2000
    data = make.native(turned, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    pixels[:, :10] = 0
    np.testing.assert_array_equal(make.raster(data), make.raster(make.native(pixels)))


def test_air_may_be_declared_padding_or_not(make, plain):
    np.testing.assert_array_equal(make.raster(make.native(make.head(**HEAD), PixelPaddingValue=0)), plain)
    below = make.head(**HEAD).astype(np.int16) - 1024
    data = make.native(below, PixelPaddingValue=-1024, RescaleSlope=1, RescaleIntercept=1024)
    np.testing.assert_array_equal(make.raster(data), plain)


def test_padding_brighter_than_the_picture_turns_dark(make, plain):
    pixels = make.head(**HEAD)
    pixels[pixels == 0] = 4095
    assert make.raster(make.native(pixels, PixelPaddingValue=4095))[0].max() == 0


def test_nothing_but_padding_is_blank(make):
    data = make.native(np.full((128, 112), -2000, np.int16), PixelPaddingValue=-2000)
    assert make.reason(data) is RefusalReason.BLANK


def test_hot_pixels_do_not_darken_the_brain(make, plain):
    pixels = make.head(**HEAD)
    pixels[5, 5] = pixels[60, 60] = pixels[100, 7] = 65535
    differing = np.mean(make.raster(make.native(pixels)) != plain)
    assert differing < 0.01


def test_the_first_window_that_shows_the_tissue_is_applied(make):
    pixels = make.head(**HEAD)
    data = make.native(pixels, WindowCenter=[10, 450, 5000], WindowWidth=[5, 880, 10])
    decoded = only(data)
    assert decoded.window == "applied"
    # PS3.3 C.11.2.1.2.1: LINEAR, by pixel centres.
    np.testing.assert_allclose(decoded.pixels, np.clip(pixels, 450 - 0.5 - 879 / 2, 450 - 0.5 + 879 / 2))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", lambda values: np.clip(values, 450 - 440, 450 + 440)),
        ("SIGMOID", lambda values: 1 / (1 + np.exp(-4 * (values - 450) / 880))),
    ],
)
def test_other_window_functions(make, function, expected):
    pixels = make.head(**HEAD)
    decoded = only(make.native(pixels, WindowCenter=450, WindowWidth=880, VOILUTFunction=function))
    assert decoded.window == "applied"
    np.testing.assert_allclose(decoded.pixels, expected(pixels.astype(float)))


@pytest.mark.parametrize(
    ("centre", "width"),
    [
        *[(0, 0), (500, 1), (500, -3), ("nan", "nan"), ("inf", 100), (500, "inf"), ("1e308", "1e308"), ("-1e308", 9)],
        *[(b"450,5 ", b"900,5 "), (b"abc ", b"def "), ([500, 400], []), (20, 30), (5000, 10)],
    ],
)
def test_a_window_that_hides_the_tissue_or_is_none_is_ignored(make, plain, centre, width):
    data = make.native(make.head(**HEAD), WindowCenter=centre, WindowWidth=width)
    assert only(data).window == ("none" if width == [] else "ignored")
    np.testing.assert_array_equal(make.raster(data), plain)


def table(make, entries, first, bits, data):
    return make.item(LUTDescriptor=[entries, first, bits], LUTData=data)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_lookup_table(make, syntax, name):
    pixels = make.head(**HEAD)
    # Values below 100 and above 899 take the first and the last entry.
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    data = (np.arange(800) ** 2 // 100).astype(f"{order}u2").tobytes()
    decoded = only(make.native(pixels, syntax, **{name: [table(make, 800, 100, 16, data)]}))
    np.testing.assert_array_equal(decoded.pixels, np.clip(pixels.astype(int) - 100, 0, 799) ** 2 // 100)
    assert decoded.window == ("lut" if name == "VOILUTSequence" else "none")


def test_a_lookup_table_of_bytes_and_one_of_65536_entries(make):
    pixels = make.head(**HEAD)
    data = bytes(range(256))
    decoded = only(make.native(pixels, VOILUTSequence=[table(make, 256, 500, 8, data)]))
    np.testing.assert_array_equal(decoded.pixels, np.clip(pixels.astype(int) - 500, 0, 255))
    data = np.arange(65536, dtype=np.uint16).tobytes()
    decoded = only(make.native(pixels, VOILUTSequence=[table(make, 0, 0, 16, data)]))
    np.testing.assert_array_equal(decoded.pixels, pixels)


@pytest.mark.parametrize(
    ("descriptor", "data"),
    [
        pytest.param([0, 0, 16], b"\0" * 100, id="65536 entries in 100 bytes"),
        pytest.param([800, 0, 16], b"\0" * 1200, id="cut off"),
        pytest.param([256, 0, 8], b"", id="empty"),
        pytest.param([256], b"\0" * 512, id="no descriptor"),
        pytest.param([65535, 65535, 65535], b"\0\0", id="huge"),
    ],
)
@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_lying_lookup_table_is_refused(make, name, descriptor, data):
    item = make.item(LUTDescriptor=descriptor)
    item.add_new("LUTData", "OW", data)
    assert make.reason(make.native(make.head(**HEAD), **{name: [item]})) is RefusalReason.CORRUPT_PIXELS


def palette(grey_levels, bits=8, first=0, entries=None):
    colours = ("Red", "Green", "Blue")
    elements = {}
    for number, colour in enumerate(colours):
        levels = np.asarray(grey_levels if np.ndim(grey_levels) == 1 else grey_levels[number])
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [entries or len(levels), first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = levels.astype(f"<u{bits // 8}").tobytes()
    return elements | {"PhotometricInterpretation": "PALETTE COLOR"}


def test_a_grey_palette(make):
    pixels = make.eight_bits(**HEAD)
    turned = 255 - pixels
    expected = make.raster(make.native(pixels))
    levels = np.arange(255, -1, -1)
    np.testing.assert_array_equal(make.raster(make.native(turned, **palette(levels))), expected)
    np.testing.assert_array_equal(make.raster(make.native(turned, **palette(levels * 257, bits=16))), expected)
    # 8 bits in entries of 16, which some writers leave unscaled.
    np.testing.assert_array_equal(make.raster(make.native(turned, **palette(levels, bits=16))), expected)


def test_a_coloured_palette_is_refused(make):
    levels = np.arange(256)
    data = make.native(make.eight_bits(**HEAD), **palette([levels, np.zeros(256), 255 - levels]))
    assert make.reason(data) is RefusalReason.COLOUR


@pytest.mark.parametrize("entries", [0xFFFF, 300])
def test_a_lying_palette_is_refused(make, entries):
    data = make.native(make.eight_bits(**HEAD), **palette(np.arange(256), entries=entries))
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


def test_a_palette_without_its_tables_is_refused(make):
    data = make.native(make.eight_bits(**HEAD), PhotometricInterpretation="PALETTE COLOR")
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


def test_a_segmented_palette_is_refused(make):
    # Expanded, a few kilobytes may hold gigabytes.
    elements = palette(np.arange(256))
    for colour in ("Red", "Green", "Blue"):
        data = elements.pop(f"{colour}PaletteColorLookupTableData")
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = data
    assert make.reason(make.native(make.eight_bits(**HEAD), **elements)) is RefusalReason.CORRUPT_PIXELS


def test_rgb_is_taken_where_it_is_grey_and_refused_where_it_is_not(make):
    grey = make.eight_bits(**HEAD)
    np.testing.assert_array_equal(
        make.raster(make.native(np.stack([grey] * 3, axis=-1))), make.raster(make.native(grey))
    )
    coloured = np.stack([grey, grey // 4, 255 - grey], axis=-1)
    assert make.reason(make.native(coloured)) is RefusalReason.COLOUR


def test_rgb_of_sixteen_bits(make):
    deep = np.stack([make.eight_bits(**HEAD).astype(np.uint16) * 257] * 3, axis=-1)
    np.testing.assert_array_equal(make.raster(make.native(deep)), make.raster(make.native(make.eight_bits(**HEAD))))


@pytest.mark.parametrize("photometric", ["", "MONOCHROME3", "HSV", "Smith^John"])
def test_an_unknown_photometric_interpretation_is_refused(make, photometric):
    data = make.native(make.head(**HEAD), PhotometricInterpretation=photometric)
    assert make.reason(data) is RefusalReason.CORRUPT_PIXELS


def test_classic_multi_frame_gives_one_slice_a_frame(make):
    pixels = np.stack([make.head(**HEAD, top=top) for top in (500, 1000, 2000)])
    decoded = load(make.native(pixels, frames=3, WindowCenter=900, WindowWidth=1800))
    assert [one.frame for one in decoded] == [1, 2, 3]
    assert [int(one.pixels.max()) for one in decoded] == [455, 910, 1799]


def test_odd_frames_of_bytes_follow_each_other_without_padding(make):
    pixels = np.stack([make.eight_bits(rows=101, columns=99), make.eight_bits(rows=101, columns=99)[::-1]])
    decoded = load(make.native(pixels, frames=2))
    np.testing.assert_array_equal(np.stack([one.pixels for one in decoded]), pixels)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.JPEGLSLossless])
def test_enhanced_multi_frame_has_its_own_rescale_window_and_spacing(make, syntax):
    pixels = np.stack([make.head(**HEAD)] * 3)

    def group(number):
        return make.item(
            PixelValueTransformationSequence=[make.item(RescaleSlope=number, RescaleIntercept=-number)],
            FrameVOILUTSequence=[make.item(WindowCenter=500 * number, WindowWidth=0 if number == 2 else 1500 * number)],
        )

    elements = {
        "SOPClassUID": uid.EnhancedMRImageStorage,
        "SharedFunctionalGroupsSequence": [make.item(PixelMeasuresSequence=[make.item(PixelSpacing=[1, 2])])],
        "PerFrameFunctionalGroupsSequence": [group(1), group(2), group(3)],
    }
    if syntax == uid.JPEGLSLossless:
        data = make.compressed(pixels, syntax, frames=3, **elements)
    else:
        data = make.native(pixels, syntax, frames=3, **elements)
    decoded = load(data)
    assert [one.window for one in decoded] == ["applied", "ignored", "applied"]
    assert [float(one.pixels.max()) for one in decoded] == [909, 1818, 2727]
    assert [one.aspect for one in decoded] == [0.5, 0.5, 0.5]


def test_fewer_functional_groups_than_frames(make):
    pixels = np.stack([make.head(**HEAD)] * 2)
    group = make.item(PixelValueTransformationSequence=[make.item(RescaleSlope=2, RescaleIntercept=0)])
    decoded = load(make.native(pixels, frames=2, PerFrameFunctionalGroupsSequence=[group]))
    assert [float(one.pixels.max()) for one in decoded] == [1820, 910]


@pytest.mark.parametrize(
    ("elements", "aspect"),
    [
        ({}, 1),
        ({"PixelSpacing": [0.9, 0.9]}, 1),
        ({"PixelSpacing": [2, 1]}, 2),
        ({"PixelAspectRatio": [1, 2]}, 0.5),
        ({"PixelSpacing": [1, 1], "PixelAspectRatio": [1, 2]}, 1),
        ({"PixelSpacing": [0, 1]}, 1),
        ({"PixelSpacing": [-1, 1]}, 1),
        ({"PixelSpacing": ["nan", 1]}, 1),
        ({"PixelSpacing": b"0,9\\0,8 "}, 1),
        ({"PixelSpacing": [100, 1]}, 1),
        ({"PixelSpacing": 1}, 1),
    ],
)
def test_the_aspect_of_a_pixel(make, elements, aspect):
    assert only(make.native(make.head(**HEAD), **elements)).aspect == aspect


def test_nothing_of_the_pipeline_warns(make):
    # As the network's input is made of it, so silently wrong arithmetic must not pass.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make.raster(make.native(make.head(**HEAD, dtype=np.int16), RescaleSlope="1e14", RescaleIntercept="-1e14"))
        make.raster(
            make.native(
                make.head(**HEAD), RescaleSlope="1e-14", WindowCenter=1, WindowWidth=1e-9, VOILUTFunction="SIGMOID"
            )
        )
