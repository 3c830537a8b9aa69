"""The sample study is what its manifest says, by readers that are not ours, and holds nobody's data."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset, uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import SIZE, open_scan, to_raster
from slicewise.worker.sample import STUDY

MANIFEST = {
    row["file"]: row for row in csv.DictReader(STUDY.with_name("manifest.csv").read_text(encoding="utf-8").splitlines())
}
TO_ASSESS = [name for name, row in MANIFEST.items() if row["expected"] == "assess"]
TO_REFUSE = [name for name, row in MANIFEST.items() if row["expected"] == "refuse"]
PICTURES = [name for name in MANIFEST if not name.endswith(".dcm")]
DICOM = [name for name in MANIFEST if name.endswith(".dcm") and name != "refuse_text.dcm"]

SYNTAXES = {
    "brain_axial_explicit.dcm": uid.ExplicitVRLittleEndian,
    "brain_axial_rle.dcm": uid.RLELossless,
    "brain_axial_monochrome1_jpeglossless.dcm": uid.JPEGLosslessSV1,
    "brain_coronal_bigendian.dcm": uid.ExplicitVRBigEndian,
    "brain_sagittal_deflated.dcm": uid.DeflatedExplicitVRLittleEndian,
    "brain_axial_multiframe_rle.dcm": uid.RLELossless,
    "mass_rim_jpeg2000.dcm": uid.JPEG2000Lossless,
    "mass_dural_jpegls.dcm": uid.JPEGLSLossless,
    "mass_sella_implicit.dcm": uid.ImplicitVRLittleEndian,
}


def read(name: str) -> Dataset:
    with warnings.catch_warnings():
        # refuse_truncated.dcm promises more pixels than it has.
        warnings.simplefilter("ignore")
        return pydicom.dcmread(STUDY / name)


def shown(dataset: Dataset) -> np.ndarray:
    """Frames as displayed, ``(frames, rows, columns)``, brighter is more signal."""
    stored = dataset.pixel_array.astype(int)
    frames = stored if stored.ndim == 3 else stored[None]
    return 4095 - frames if dataset.PhotometricInterpretation == "MONOCHROME1" else frames


def voi(dataset: Dataset) -> tuple[float, float]:
    """The window in stored values."""
    groups = dataset.get("SharedFunctionalGroupsSequence")
    window = groups[0].FrameVOILUTSequence[0] if groups else dataset
    rescale = groups[0].PixelValueTransformationSequence[0] if groups else dataset
    centre, width = float(window.WindowCenter), float(window.WindowWidth)
    return (
        (centre - width / 2 - float(rescale.RescaleIntercept)) / float(rescale.RescaleSlope),
        (centre + width / 2 - float(rescale.RescaleIntercept)) / float(rescale.RescaleSlope),
    )


def test_manifest_and_folder_agree() -> None:
    assert sorted(MANIFEST) == sorted(path.name for path in STUDY.iterdir())
    assert {row["expected"] for row in MANIFEST.values()} == {"assess", "refuse"}
    assert all(MANIFEST[name]["reason"] == "" and int(MANIFEST[name]["frames"]) >= 1 for name in TO_ASSESS)
    # Each refusal shows another reason, and every reason is one that exists.
    reasons = [RefusalReason(MANIFEST[name]["reason"]) for name in TO_REFUSE]
    assert len(set(reasons)) == len(reasons)
    assert all(MANIFEST[name]["frames"] == "0" for name in TO_REFUSE)


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in STUDY.iterdir()) < 1_200_000


@pytest.mark.parametrize(("name", "syntax"), SYNTAXES.items())
def test_dicom_slices_decode(name: str, syntax: str) -> None:
    dataset = read(name)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.SOPClassUID == (uid.EnhancedMRImageStorage if "multiframe" in name else uid.MRImageStorage)
    assert dataset.Modality == "MR"
    assert dataset.BodyPartExamined in {"BRAIN", "HEAD"}
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.PixelRepresentation) == (16, 12, 0)
    assert dataset.PhotometricInterpretation == ("MONOCHROME1" if "monochrome1" in name else "MONOCHROME2")
    frames = shown(dataset)
    assert frames.shape == (int(MANIFEST[name]["frames"]), dataset.Rows, dataset.Columns)
    assert frames.max() <= 4095
    # A head before a dark background: corners dark, middle bright.
    assert np.median(frames[:, :10, :10]) < 0.1 * np.median(frames[:, 80:140, 60:140])


@pytest.mark.parametrize("name", SYNTAXES)
def test_windows_show_the_tissue(name: str) -> None:
    dataset = read(name)
    low, high = voi(dataset)
    stored = dataset.pixel_array
    assert np.mean((stored >= low) & (stored <= high)) > 0.98


def test_the_explicit_list_misses_no_slice() -> None:
    assert set(SYNTAXES) == set(TO_ASSESS) - set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode(name: str) -> None:
    with Image.open(STUDY / name) as picture:
        picture.load()
        assert picture.format == ("PNG" if name.endswith("png") else "JPEG")
        assert picture.mode == ("RGB" if name == "refuse_colour.jpg" else "L")
        # No camera, place or author travels along.
        assert not picture.getexif()
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_the_exported_picture_is_its_slice() -> None:
    stored = read("mass_rim_jpeg2000.dcm").pixel_array.astype(float)
    with Image.open(STUDY / "mass_rim.jpg") as picture:
        grey = np.asarray(picture, float)
    assert np.abs(np.clip(stored / 1500 * 255, 0, 255) - grey).mean() < 3


def test_what_is_to_be_refused_is_what_it_claims() -> None:
    assert (read("refuse_ct.dcm").Modality, read("refuse_ct.dcm").SOPClassUID) == ("CT", uid.CTImageStorage)
    assert read("refuse_ct.dcm").pixel_array.any()
    assert "LOCALIZER" in read("refuse_localiser.dcm").ImageType
    assert read("refuse_localiser.dcm").pixel_array.any()
    assert np.ptp(read("refuse_blank.dcm").pixel_array) == 0
    truncated = read("refuse_truncated.dcm")
    assert 0 < len(truncated.PixelData) < truncated.Rows * truncated.Columns * 2
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(STUDY / "refuse_text.dcm")
    assert (STUDY / "refuse_text.dcm").read_bytes().isascii()


@pytest.mark.parametrize("name", DICOM)
def test_it_holds_nobodys_data(name: str) -> None:
    dataset = read(name)
    assert not (STUDY / name).read_bytes()[:128].strip(b"\0")  # the preamble is a place to hide things
    assert (str(dataset.PatientName), dataset.PatientID) == ("SLICEWISE^SAMPLE", "SAMPLE-1")
    for element in dataset.iterall():
        assert not element.tag.is_private
        # PS3.15 E.1: who, where and when.
        if element.VR == "PN":
            assert str(element.value) in {"", "SLICEWISE^SAMPLE"}
        elif element.VR in {"DA", "DT"}:
            assert str(element.value)[:8] in {"", "20000101"}
        elif element.VR == "UI" and not str(element.value).startswith("1.2.840.10008."):
            assert element.value.startswith(uid.PYDICOM_ROOT_UID)
        assert not element.keyword.startswith(("Institution", "Operator", "Physician", "Station", "Device", "Other"))


def test_instances_are_told_apart() -> None:
    uids = [read(name).SOPInstanceUID for name in DICOM]
    assert len(set(uids)) == len(uids)
    assert {read(name).StudyInstanceUID for name in DICOM} == {read(DICOM[0]).StudyInstanceUID}


@pytest.mark.parametrize("name", TO_ASSESS)
def test_the_worker_sees_a_head(name: str) -> None:
    rasters = [to_raster(made) for made in open_scan((STUDY / name).read_bytes()).slices()]
    assert len(rasters) == int(MANIFEST[name]["frames"])
    for raster in rasters:
        assert raster.shape == (SIZE, SIZE)
        head = raster > 20
        # Cropped to the head: it spans the raster but for the margin, one way at least, and fills a good half.
        assert max(np.ptp(np.flatnonzero(head.any(axis=axis))) for axis in (0, 1)) > 0.85 * SIZE
        assert head.mean() > 0.4


@pytest.mark.parametrize("name", TO_REFUSE)
def test_the_worker_refuses_for_the_reason_given(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        [to_raster(made) for made in open_scan((STUDY / name).read_bytes()).slices()]
    assert refusal.value.reason == MANIFEST[name]["reason"]


def test_the_notice_travels_along() -> None:
    readme = STUDY.with_name("README.md").read_text(encoding="utf-8")
    assert "Copyright (C) 1993-2004 Louis Collins, McConnell Brain" in readme
    notice = Path(__file__).parents[2] / "NOTICE"
    assert "Copyright (C) 1993-2004 Louis Collins, McConnell Brain" in notice.read_text(encoding="utf-8")
