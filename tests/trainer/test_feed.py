"""An epoch's batches depend on the seed and the epoch alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slicewise.trainer.data import LABELS, Example
from slicewise.trainer.feed import Feed, vary
from slicewise.trainer.recipe import Augmentation
from slicewise.worker.model import session
from slicewise.worker.model.store import REFERENCE, RESIDUAL

COUNT = 22
OFF = Augmentation(rotation=0, scale=0, shift=0, flip=False, gain=0, gamma=0)


@pytest.fixture
def pixels() -> np.ndarray:
    """Each picture is flat, and names itself by its level."""
    return np.repeat(np.arange(COUNT, dtype=np.uint8) * 10, 150 * 150).reshape(COUNT, 150, 150)


@pytest.fixture
def examples() -> list[Example]:
    return [Example(Path(f"{n}.jpg"), f"{n}.jpg", LABELS[n % 4], "", f"x{n // 2}") for n in range(COUNT)]


def batches(feed: Feed) -> list[tuple[np.ndarray, np.ndarray]]:
    return [feed[i] for i in range(len(feed))]


def levels(feed: Feed) -> list[int]:
    return [int(picture.max()) // 10 for pictures, _ in batches(feed) for picture in pictures]


def test_batches(pixels, examples):
    feed = Feed(pixels, examples, batch=8)
    assert len(feed) == 3
    assert [x.shape for x, _ in batches(feed)] == [(8, 150, 150, 3), (8, 150, 150, 3), (6, 150, 150, 3)]
    assert {(x.dtype, y.dtype) for x, y in batches(feed)} == {(np.dtype(np.float32), np.dtype(np.float32))}
    assert levels(feed) == list(range(COUNT))
    labels = np.concatenate([y for _, y in batches(feed)])
    np.testing.assert_array_equal(labels.argmax(axis=1), [n % 4 for n in range(COUNT)])
    np.testing.assert_array_equal(labels.sum(axis=1), 1)
    assert Feed(pixels, examples, batch=8, size=94)[0][0].shape == (8, 94, 94, 3)


def test_same_seed_and_epoch_same_batches(pixels, examples):
    def feed(seed: int) -> Feed:
        return Feed(pixels, examples, batch=8, size=94, augmentation=Augmentation(), shuffle=True, seed=seed)

    unbroken, resumed, other = feed(1), feed(1), feed(2)
    first = batches(unbroken)
    unbroken.on_epoch_end()
    resumed.begin(1)
    for (x, y), (same_x, same_y) in zip(batches(unbroken), batches(resumed), strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)
    assert not np.array_equal(first[0][0], batches(unbroken)[0][0])
    assert not np.array_equal(first[0][0], other[0][0])


def test_every_picture_once_an_epoch(pixels, examples):
    feed = Feed(pixels, examples, batch=8, shuffle=True)
    assert levels(feed) != list(range(COUNT))
    assert sorted(levels(feed)) == list(range(COUNT))


def test_one_picture_of_each_group(pixels, examples):
    feed = Feed(pixels, examples, batch=8, shuffle=True, one_per_group=True)
    drawn = []
    for _ in range(12):
        drawn.append(levels(feed))
        assert sorted(n // 2 for n in drawn[-1]) == list(range(COUNT // 2))
        feed.on_epoch_end()
    assert {n for epoch in drawn for n in epoch} == set(range(COUNT))


def test_augmentation_that_is_off_changes_nothing():
    raster = np.random.default_rng(0).integers(0, 256, (150, 150)).astype(np.uint8)
    np.testing.assert_array_equal(vary(raster, OFF, 150, np.random.default_rng(0)), raster)


@pytest.mark.parametrize(
    "worse", [{"bias": 0.5}, {"coarse": 0.6}, {"noise": 8.0}, {"jpeg": 0.8}], ids=lambda worse: next(iter(worse))
)
def test_worse_pictures_half_of_the_time(worse):
    """Whatever is done to a picture leaves most of it as it is, and is done to some pictures only."""
    raster = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(60, 120, (15, 15)).astype(np.uint8)).resize((150, 150))
    )
    varied = [vary(raster, replace(OFF, **worse), 150, np.random.default_rng(seed)) for seed in range(40)]
    same = sum(np.array_equal(one, raster) for one in varied)
    assert 8 <= same <= 32
    for one in varied:
        assert np.corrcoef(one.ravel(), raster.ravel())[0, 1] > 0.5


def test_mixed_pictures_have_mixed_labels(pixels, examples):
    feed = Feed(pixels, examples, batch=COUNT, mixup=0.4, seed=3)
    mixed, labels = feed[0]
    plain, wanted = Feed(pixels, examples, batch=COUNT)[0]
    share = (mixed[0, 0, 0, 0] - plain[-1, 0, 0, 0]) / (plain[0, 0, 0, 0] - plain[-1, 0, 0, 0])
    assert 0 < share < 1
    np.testing.assert_allclose(mixed, share * plain + (1 - share) * plain[::-1], atol=1e-3)
    np.testing.assert_allclose(labels, share * wanted + (1 - share) * wanted[::-1], atol=1e-5)


def test_teachers_speak_of_the_pictures_as_they_are_shown(pixels, examples):
    """Each in its turn, for a share of the label."""
    teachers = [session.load(path, threads=1) for path in (RESIDUAL, REFERENCE)]
    shown = {"batch": 8, "mixup": 0.4, "augmentation": Augmentation(), "seed": 3}
    feed, untaught = Feed(pixels, examples, teachers=teachers, teaching=0.7, **shown), Feed(pixels, examples, **shown)
    for epoch in range(2):
        for index, ((seen, labels), (same, before)) in enumerate(zip(batches(feed), batches(untaught), strict=True)):
            np.testing.assert_array_equal(seen, same)
            said = teachers[(epoch + index) % 2].score(np.rint(seen[..., 0]).astype(np.uint8)).probabilities
            np.testing.assert_allclose(labels, 0.3 * before + 0.7 * said, atol=1e-6)
        feed.on_epoch_end()
        untaught.on_epoch_end()


def test_a_box_of_one_picture_lies_over_another(examples):
    """And each label counts by its share of what is no air."""
    pixels = np.zeros((COUNT, 150, 150), np.uint8)
    for n in range(COUNT):
        pixels[n, 20:130, 30:120] = 20 + 10 * n
    feed = Feed(pixels, examples, batch=COUNT, cutmix=0.9, seed=3)
    patched, labels = feed[0]
    shares = []
    for n, (picture, label) in enumerate(zip(patched[..., 0], labels, strict=True)):
        own, other = (picture == 20 + 10 * m for m in (n, COUNT - 1 - n))
        assert (own | other | (picture == 0)).all()
        share = other.sum() / (own | other).sum()
        wanted = (1 - share) * np.eye(4)[n % 4] + share * np.eye(4)[(COUNT - 1 - n) % 4]
        np.testing.assert_allclose(label, wanted, atol=1e-6)
        shares.append(share)
        if other.any():
            rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
            box = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert (box == 20 + 10 * (COUNT - 1 - n)).all()
    assert min(shares) < 0.1
    assert max(shares) > 0.6
    again = Feed(pixels, examples, batch=COUNT, cutmix=0.9, seed=3)[0]
    np.testing.assert_array_equal(again[0], patched)
    np.testing.assert_array_equal(again[1], labels)


def test_mixup_and_cutmix_take_turns(pixels, examples):
    feed = Feed(pixels + 20, examples, batch=2, mixup=0.4, cutmix=0.9)
    boxes = [len(np.unique(picture)) == 2 for pictures, _ in batches(feed) for picture in pictures]
    blends = [
        len(np.unique(picture)) == 1 and picture.max() % 10 > 0 for pictures, _ in batches(feed) for picture in pictures
    ]
    assert any(boxes)
    assert any(blends)


def test_strangers_take_the_places_of_a_share(pixels, examples):
    strangers = np.full((3, 150, 150), 255, np.uint8)
    feed = Feed(pixels, examples, batch=8, strangers=strangers, share=0.25)
    for x, y in batches(feed):
        strange = x.reshape(len(x), -1).min(axis=1) == 255
        assert strange.sum() == 2
        np.testing.assert_array_equal(y[strange], 0.25)
        np.testing.assert_array_equal(y[~strange].max(axis=1), 1)
    assert pixels.max() < 255
    without = Feed(pixels, examples, batch=8, strangers=strangers, share=0.01)
    assert levels(without) == list(range(COUNT))


def test_flip_mirrors_left_and_right():
    raster = np.random.default_rng(0).integers(0, 256, (150, 150)).astype(np.uint8)
    varied = [vary(raster, replace(OFF, flip=True), 150, np.random.default_rng(seed)) for seed in range(8)]
    assert {v.tobytes() for v in varied} == {raster.tobytes(), raster[:, ::-1].tobytes()}
