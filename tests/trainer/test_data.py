"""Pictures are found by folder, parted without leaks where that is promised, and decoded by the worker's imaging."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slicewise.trainer.data import LABELS, Example, apart_from, census, find, rasters, select, split
from slicewise.trainer.recipe import Selection
from slicewise.worker.errors import Misconfigured


def write_groups(root: Path, group_of) -> Path:
    path = root.parent / "groups.csv"
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "pooled_group", "fold5", "group_mixed_label"])
        for number, picture in enumerate(sorted(root.rglob("*.jpg"))):
            group = group_of(number)
            writer.writerow([picture.relative_to(path.parent), f"x{group}", group % 5, int(group == 0)])
    return path


def invented(per_class: int, copies: int = 1) -> list[Example]:
    """Examples without files; the pictures of a group may belong to two classes."""
    return [
        Example(Path(f"/d/{label}/{n}.jpg"), f"d/{label}/{n}.jpg", label, "", f"x{(n + 3 * i) // copies}", fold=n % 5)
        for i, label in enumerate(LABELS)
        for n in range(per_class)
    ]


def test_both_data_sets_folder_names(tmp_path, write_data_set):
    root = write_data_set(tmp_path / "sartaj", 1, parts=("Training", "Testing"))
    for old, new in (("no_tumor", "notumor"), ("glioma_tumor", "glioma")):
        (root / "Testing" / old).rename(root / "Testing" / new)
    found = find([root])
    assert Counter(e.label for e in found) == dict.fromkeys(LABELS, 2)
    assert Counter(e.official for e in found) == {"Training": 4, "Testing": 4}
    assert {e.name for e in found} >= {"sartaj/Testing/notumor/image(0).jpg", "sartaj/Training/no_tumor/image(0).jpg"}


def test_folder_that_is_no_class(data_set):
    (data_set / "no_tumor").rename(data_set / "healthy")
    with pytest.raises(Misconfigured, match=r"healthy.*lies in no class"):
        find([data_set])


def test_class_without_pictures(data_set):
    shutil.rmtree(data_set / "no_tumor")
    with pytest.raises(Misconfigured, match="no pictures of no_tumor"):
        find([data_set])
    assert len(find([data_set], every_class=False)) == 15
    with pytest.raises(Misconfigured, match="no pictures"):
        find([data_set / "nothing here"], every_class=False)


def test_random_split_is_stratified_and_repeatable():
    examples = invented(40)
    parted = split(examples, "random", fraction=0.1, seed=3)
    assert Counter(e.label for e in parted.validation) == dict.fromkeys(LABELS, 4)
    assert {e.path for e in parted.training} | {e.path for e in parted.validation} == {e.path for e in examples}
    assert len(parted.training) + len(parted.validation) == 160
    assert parted.leaky
    assert "leaky" in parted.description
    assert split(examples[::-1], "random", fraction=0.1, seed=3).validation == parted.validation[::-1]
    assert split(examples, "random", fraction=0.1, seed=4).validation != parted.validation


@pytest.mark.parametrize("seed", range(5))
def test_groups_never_straddle(seed):
    parted = split(invented(40, copies=4), "group", fraction=0.2, seed=seed)
    assert not {e.group for e in parted.training} & {e.group for e in parted.validation}
    assert not parted.leaky
    assert set(Counter(e.label for e in parted.validation)) == set(LABELS)


def test_a_split_by_group_without_groups_is_refused(data_set):
    with pytest.raises(Misconfigured, match="give --groups"):
        split(find([data_set]), "group", fraction=0.4)


def test_groups_file(data_set):
    groups = write_groups(data_set, lambda number: number // 2)
    parted = select(Selection((str(data_set),), str(groups), how="fold", fold=2))
    assert {e.fold for e in parted.validation} == {2}
    assert {e.fold for e in parted.training} == {0, 1, 3, 4}
    assert not parted.leaky
    assert not any(e.ambiguous for e in parted.training)
    assert parted.selection
    assert parted.selection.fold == 2


def test_groups_file_that_lacks_a_picture(data_set):
    groups = write_groups(data_set, lambda number: number)
    groups.write_text("\n".join(groups.read_text().splitlines()[:-1]))
    with pytest.raises(Misconfigured, match="does not name"):
        find([data_set], groups)
    with pytest.raises(Misconfigured, match="no groups file"):
        find([data_set], groups.with_name("absent.csv"))


def test_pictures_with_a_near_copy_elsewhere_are_left_out():
    examples = invented(per_class=20, copies=2)
    known = {examples[0].group, examples[-1].group}
    left = apart_from(examples, [e for e in examples if e.group in known])
    assert {e.group for e in left} == {e.group for e in examples} - known
    with pytest.raises(Misconfigured, match="nothing is left"):
        apart_from(examples, examples)


def test_near_copies_are_unknown_without_a_groups_file(data_set):
    found = find([data_set])
    with pytest.raises(Misconfigured, match="--groups"):
        apart_from(found, found[:1])


def test_official_split(tmp_path, write_data_set):
    root = write_data_set(tmp_path / "d", 2, parts=("Training", "Testing"))
    parted = split(find([root]), "official")
    assert {e.official for e in parted.training} == {"Training"}
    assert {e.official for e in parted.validation} == {"Testing"}
    assert parted.leaky


@pytest.mark.parametrize(
    ("how", "said"),
    [("fold", "give --groups"), ("official", "leaves 20 to train on and 0"), ("cv", "no split is called")],
)
def test_impossible_splits(data_set, how, said):
    with pytest.raises(Misconfigured, match=said):
        split(find([data_set]), how)


def test_rasters_leave_out_what_imaging_refuses(data_set):
    (data_set / "no_tumor" / "image(1).jpg").write_bytes(b"no picture")
    found = find([data_set])
    decoded = rasters(found)
    assert decoded.pixels.shape == (19, 150, 150)
    assert decoded.pixels.dtype == np.uint8
    assert [e.name for e, _ in decoded.refused] == ["heads/no_tumor/image(1).jpg"]
    assert len(decoded.examples) == 19
    assert decoded.refused[0][0] not in decoded.examples
    assert rasters([]).pixels.shape == (0, 150, 150)


def test_every_frame_of_a_file_counts(data_set, write_dicom, brain):
    frames = np.stack([brain(1), brain(2), brain(3)])
    write_dicom(data_set / "no_tumor" / "frames.dcm", frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    decoded = rasters([e for e in find([data_set]) if e.path.suffix == ".dcm"])
    assert len(decoded.pixels) == len(decoded.examples) == 3


def test_fingerprint_follows_content_and_not_place(data_set, tmp_path):
    told = census(find([data_set]))
    assert told["pictures"] == 20
    assert told["sets"] == ["heads"]
    assert told["per_class"] == dict.fromkeys(LABELS, 5)
    moved = shutil.copytree(data_set, tmp_path / "elsewhere" / "heads")
    assert census(find([moved])[::-1]) == told
    picture = moved / "no_tumor" / "image(0).jpg"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert census(find([moved]))["fingerprint"] != told["fingerprint"]
