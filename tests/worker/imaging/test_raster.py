"""Geometry and intensity: what of a picture may reach the network, and its bytes, pinned."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import PREPROCESS_VERSION, PREPROCESS_VERSIONS, SIZE
from slicewise.worker.imaging.raster import Featureless, normalise

GOLDEN = {
    # name: (of the head, aspect, first 32 digits of the SHA-256 of the raster's bytes)
    "square 8 bit": (
        {"rows": 150, "columns": 150, "top": 255, "dtype": np.uint8},
        1.0,
        "40e25c733597fad58717c6d75eb70cf3",
    ),
    "512 8 bit": (
        {"rows": 512, "columns": 512, "top": 255, "dtype": np.uint8},
        1.0,
        "54dd134a07a3292e4373f9f011207576",
    ),
    "odd 8 bit": (
        {"rows": 217, "columns": 181, "top": 255, "dtype": np.uint8},
        1.0,
        "9628353e3026d96db12353d868a9cb02",
    ),
    "smallest 8 bit": (
        {"rows": 96, "columns": 96, "top": 255, "dtype": np.uint8},
        1.0,
        "22712f7d9e4c9845a21f23094372d9c7",
    ),
    "large 8 bit": (
        {"rows": 1024, "columns": 880, "top": 255, "dtype": np.uint8},
        1.0,
        "3ede8f92d860e203128d0601456494b1",
    ),
    "dim 8 bit": ({"rows": 256, "columns": 256, "top": 60, "dtype": np.uint8}, 1.0, "332ae3fb48df607db95806c4b6578147"),
    "12 bit": ({"rows": 256, "columns": 256, "top": 4095, "dtype": np.uint16}, 1.0, "fac05f7fa5f340e4038d08fcb48a64d4"),
    "signed": ({"rows": 320, "columns": 260, "top": 30000, "dtype": np.int16}, 1.0, "0cd88c4fb70a7ce09ef2e948f9091ff9"),
    "real": ({"rows": 192, "columns": 256, "top": 1000, "dtype": np.float32}, 1.0, "910ab3d6d4fa981e1bbd9eecdd05c9a6"),
    "flat pixels": (
        {"rows": 128, "columns": 256, "top": 1000, "dtype": np.uint16},
        2.0,
        "98a14a99fa43c46f692576a94cf634b7",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_slices(make, name):
    """A changed byte needs a new `PREPROCESS_VERSION`: models were trained on these."""
    of_head, aspect, expected = GOLDEN[name]
    raster = normalise(make.head(**of_head), aspect)
    assert PREPROCESS_VERSION == "tissue-1"
    assert hashlib.sha256(raster.tobytes()).hexdigest()[:32] == expected


def test_golden_picture_files(make):
    """The same through the door, where a decoder's or a resizer's change would show too."""
    head = make.head(rows=176, columns=160, top=255, dtype=np.uint8)
    np.testing.assert_array_equal(make.raster(make.picture(head)), normalise(head))


def test_this_version_can_be_made():
    assert PREPROCESS_VERSION in PREPROCESS_VERSIONS


@pytest.mark.parametrize("name", GOLDEN)
def test_shape_range_and_level(make, name):
    raster = normalise(make.head(**GOLDEN[name][0]), GOLDEN[name][1])
    assert raster.shape == (SIZE, SIZE)
    assert raster.dtype == np.uint8
    assert raster[0].max() == raster[-1].max() == raster[:, 0].max() == raster[:, -1].max() == 0
    middle = raster[45:105, 45:105]
    assert 72 <= np.median(middle[middle > 0]) <= 92


@pytest.mark.parametrize(("slope", "intercept"), [(2, 0), (0.5, 0), (1, -1024), (3, 5000), (1e-6, 0), (1e6, -1e6)])
def test_brightness_and_contrast_leave_no_trace(make, slope, intercept):
    head = make.head(rows=200, columns=180).astype(np.float64)
    difference = normalise(head).astype(int) - normalise(head * slope + intercept)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("pad", [((40, 0), (0, 0)), ((0, 90), (15, 60)), ((128, 128), (128, 128))])
def test_padding_leaves_no_trace_but_the_grid_of_the_statistics(make, pad):
    head = make.head(rows=256, columns=224)
    difference = np.abs(normalise(head).astype(int) - normalise(np.pad(head, pad)))
    # Statistics come from a grid, whose points move: the head may shift by a source pixel.
    assert difference.mean() < 8


def test_a_white_letter_beside_the_head_changes_little(make):
    head = make.head(rows=256, columns=256)
    marked = head.copy()
    marked[4:16, 4:14] = 60000
    assert np.abs(normalise(head).astype(int) - normalise(marked)).mean() < 8


@pytest.mark.parametrize("aspect", [0.5, 0.8, 1.25, 2.0])
def test_a_head_keeps_its_shape_where_pixels_are_not_square(make, aspect):
    tall = make.head(rows=240, columns=200, lesion=False)
    squeezed = np.asarray(
        Image.fromarray(tall.astype(np.float32)).resize((200, round(240 / aspect)), Image.Resampling.BOX)
    )
    right = np.abs(normalise(tall).astype(int) - normalise(squeezed, aspect)).mean()
    assert right < 12
    if not 0.75 < aspect < 1.3:
        assert right < 0.5 * np.abs(normalise(tall).astype(int) - normalise(squeezed)).mean()


def test_it_is_pure(make):
    head = make.head(rows=200, columns=200)
    before = head.copy()
    head.flags.writeable = False
    np.testing.assert_array_equal(normalise(head), normalise(head))
    np.testing.assert_array_equal(head, before)


def test_layout_of_memory_does_not_matter(make):
    head = make.head(rows=200, columns=180)
    expected = normalise(head)
    for same in (np.asfortranarray(head), head.astype(">u2"), head[::-1][::-1], np.repeat(head, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(normalise(same), expected)


@pytest.mark.parametrize(
    ("grey", "reason"),
    [
        pytest.param(np.zeros((200, 200), np.uint16), RefusalReason.BLANK, id="black"),
        pytest.param(np.full((200, 200), 700, np.int16), RefusalReason.BLANK, id="grey"),
        pytest.param(np.full((200, 200), np.nan), RefusalReason.BLANK, id="not a number"),
        pytest.param(np.eye(200, dtype=np.uint8), RefusalReason.NO_HEAD, id="a hair"),
        pytest.param(np.pad(np.full((20, 20), 9.0), 90), RefusalReason.NO_HEAD, id="a dot"),
        pytest.param(np.pad(np.full((12, 150), 9.0), ((94, 94), (25, 25))), RefusalReason.NO_HEAD, id="a bar"),
        pytest.param(np.pad(np.zeros((120, 120)), 20, constant_values=9.0), RefusalReason.NO_HEAD, id="a frame"),
        pytest.param(np.pad(np.full((190, 45), 9.0), ((5, 5), (80, 75))), RefusalReason.NO_HEAD, id="a leg"),
        pytest.param(np.ones((96, 100_000), np.uint8).cumsum(axis=1), RefusalReason.NO_HEAD, id="a ribbon"),
    ],
)
def test_nothing_that_could_be_a_head(grey, reason):
    with pytest.raises(Featureless) as caught, np.errstate(all="raise"):
        normalise(grey)
    assert caught.value.reason is reason
