"""Real scans: what the manifest of the shared test data expects of each file.

Point ``SLICEWISE_TEST_DATA`` at a folder with ``dicom/manifest.csv``; a checkout that has ``../shared/data`` finds it.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from slicewise.worker.errors import Refused
from slicewise.worker.imaging import open_scan, to_raster

# Read now: the fixture that keeps settings out of tests takes it away.
DATA = Path(os.environ.get("SLICEWISE_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
MANIFEST = DATA / "dicom" / "manifest.csv"

pytestmark = pytest.mark.skipif(
    not MANIFEST.is_file(),
    reason=f"no real scans: there is no {MANIFEST}; set SLICEWISE_TEST_DATA to the folder that holds dicom/manifest.csv",
)


def entries():
    if not MANIFEST.is_file():
        return []
    with MANIFEST.open(newline="") as file:
        return [pytest.param(entry, id=entry["file"]) for entry in csv.DictReader(file)]


def raster(name):
    (one,) = (to_raster(decoded) for decoded in open_scan((DATA / "dicom" / name).read_bytes()).slices())
    return one


@pytest.mark.parametrize("entry", entries() or [None])
def test_what_the_manifest_expects(entry):
    data = (DATA / "dicom" / entry["file"]).read_bytes()
    kinds = set()
    try:
        for decoded in open_scan(data).slices():
            try:
                to_raster(decoded)
                kinds.add("classify")
            except Refused:
                kinds.add("reject")
    except Refused:
        kinds = {"reject"}
    wanted = entry["expected"].partition("-")[0]
    assert kinds <= {wanted} | {kind for kind in ("classify", "reject") if kind in entry["alt_ok"]}


@pytest.mark.parametrize(
    "name",
    [
        *("v_rle.dcm", "v_jls.dcm", "v_j2kr.dcm", "v_jpll.dcm", "v_bigendian.dcm", "v_deflated.dcm", "v_nopreamble"),
        *("v_mono1.dcm", "v_signed_rescale.dcm", "v_window_width_zero.dcm", "v_hot_pixels.dcm"),
        *("v_hostile_patientid.dcm",),
    ],
)
def test_variants_of_one_slice_are_byte_identical(name):
    np.testing.assert_array_equal(raster(name), raster("series_brain_pd/IM0012.dcm"))


def test_one_picture_in_three_codecs():
    np.testing.assert_array_equal(raster("nema_mr1_j2kr"), raster("nema_mr1_jlsl"))
    np.testing.assert_array_equal(raster("nema_mr4_jpll"), raster("nema_mr4_rle"))
    for lossy in ("nema_mr4_j2ki", "nema_mr4_jply_ext12"):
        assert np.abs(raster(lossy).astype(int) - raster("nema_mr4_rle")).mean() < 4


@pytest.mark.parametrize("folder", ["sartaj", "nickparvar"])
def test_the_public_pictures_are_assessed(folder):
    found = sorted((DATA / folder).rglob("*.jpg"))[::150]
    if not found:
        pytest.skip(f"no real pictures: there is no {DATA / folder}")
    for path in found:
        (decoded,) = open_scan(path.read_bytes()).slices()
        assert to_raster(decoded).any()
