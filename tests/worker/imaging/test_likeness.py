"""What no slice of a head looks like is never given to the network."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from slicewise.db.reasons import RefusalReason
from slicewise.worker import sample
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import Slice, to_raster

SEEDS = range(12)
WORDS = ["patient", "report", "findings", "impression", "brain", "contrast", "normal", "of", "the", "mass"]


def size(rng):
    return int(rng.integers(160, 513)), int(rng.integers(160, 513))


def grid(rng):
    return np.mgrid[tuple(slice(0, side) for side in size(rng))]


def noise(rng):
    return rng.integers(0, 256, size(rng))


def magnitude_noise(rng):
    """What a scanner sees of nobody."""
    shape = size(rng)
    return np.hypot(rng.normal(size=shape), rng.normal(size=shape)) * 50


def fine_grain(rng):
    grain = Image.fromarray((rng.normal(size=size(rng)) * 40 + 128).clip(0, 255).astype(np.uint8))
    return np.asarray(grain.filter(ImageFilter.GaussianBlur(1)))


def text(rng):
    rows, columns = size(rng)
    paper = int(rng.integers(2)) * 255
    page = Image.new("L", (columns, rows), paper)
    for y in range(5, rows - 10, int(rng.integers(11, 24))):
        line = " ".join(rng.choice(WORDS, int(rng.integers(3, 14))))
        ImageDraw.Draw(page).text((int(rng.integers(2, 20)), y), line, fill=255 - paper)
    return np.asarray(page)


def stripes(rng):
    y, x = grid(rng)
    return ((x if rng.integers(2) else y) // int(rng.integers(4, 60)) % 2) * 255


def waves(rng):
    _, x = grid(rng)
    return (np.sin(x * 6.28 / rng.uniform(6, 24)) + 1) * 127


def checkerboard(rng):
    y, x = grid(rng)
    side = int(rng.integers(4, 60))
    return (x // side + y // side) % 2 * 255


def disc(rng):
    y, x = grid(rng)
    rows, columns = x.shape
    return (((x / columns - 0.5) / 0.4) ** 2 + ((y / rows - 0.5) / 0.35) ** 2 < 1) * rng.uniform(80, 255)


def shaded_disc(rng):
    state = rng.bit_generator.state
    columns = size(rng)[1]
    rng.bit_generator.state = state
    found = disc(rng) > 0
    return found * np.linspace(50, 250, columns)


def ramp(rng):
    y, x = grid(rng)
    angle = rng.uniform(0, 1.5)
    return x / x.max() * np.cos(angle) * 200 + y / y.max() * np.sin(angle) * 200


def glow(rng):
    y, x = grid(rng)
    return 255 - np.hypot(x / x.max() - 0.5, y / y.max() - 0.5) * 300


def squares(rng):
    rows, columns = size(rng)
    picture = Image.new("L", (columns, rows))
    for _ in range(int(rng.integers(3, 30))):
        x, y = int(rng.integers(columns - 20)), int(rng.integers(rows - 20))
        box = [x, y, x + int(rng.integers(10, columns // 2)), y + int(rng.integers(10, rows // 2))]
        ImageDraw.Draw(picture).rectangle(box, fill=int(rng.integers(20, 256)))
    return np.asarray(picture)


NONSENSE = [
    *(noise, magnitude_noise, fine_grain, text, stripes, waves, checkerboard, disc, shaded_disc, ramp, glow, squares),
]


@pytest.mark.parametrize("kind", NONSENSE, ids=lambda kind: kind.__name__)
def test_nonsense_is_refused(kind):
    for seed in SEEDS:
        picture = kind(np.random.default_rng(seed)).astype(np.float32)
        with pytest.raises(Refused) as refused:
            to_raster(Slice(picture))
        assert refused.value.reason in {RefusalReason.NO_HEAD, RefusalReason.BLANK}


@pytest.mark.parametrize("tiles", [4, 5, 6])
def test_a_film_of_slices_is_no_slice(make, tiles):
    one = np.asarray(Image.fromarray(make.head(top=255, dtype=np.uint8)).resize((120, 120)))
    film = np.tile(np.pad(one, 4), (tiles, tiles))
    with pytest.raises(Refused):
        to_raster(Slice(film))


@pytest.mark.parametrize("noise_level", [0, 10, 25])
@pytest.mark.parametrize("air", [0, 40])
def test_a_head_passes_also_with_noise_and_grey_air(noise_level, air):
    head = np.asarray(Image.open(sample.STUDY / "brain_axial.png").convert("L")).astype(np.float32) * 0.8
    noisy = head + air + np.random.default_rng(0).normal(size=head.shape) * noise_level
    assert to_raster(Slice(noisy)).shape == (150, 150)
