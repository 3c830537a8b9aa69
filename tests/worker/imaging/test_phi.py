"""No name leaves the header: not by a refusal, a header fact, a log line or a warning."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import uid

NAME = "ZAPHOD"

# Reads every file named on its command line as a worker would, with all that Python can say switched on.
READER = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
from slicewise.worker.pipeline import prepare
for path in sys.argv[1:]:
    prepared = prepare(Path(path))
    print(Path(path).name, prepared.header, prepared.refusal, *(str(f) for f in prepared.frames if not hasattr(f, "shape")))
"""

TEXT = dict.fromkeys(
    (
        *("PatientName", "PatientID", "OtherPatientIDs", "InstitutionName", "ReferringPhysicianName", "OperatorsName"),
        *("StationName", "Manufacturer", "StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"),
        *("AccessionNumber", "StudyID", "RequestingPhysician", "BodyPartExamined", "PatientComments"),
    ),
    NAME,
)

# Where no name belongs, and a careless or hostile writer puts one.
MISPLACED = {
    "Modality": NAME,
    "ImageType": [NAME, NAME, NAME],
    "SOPInstanceUID": NAME.encode(),
    "SeriesInstanceUID": NAME.encode(),
    "StudyInstanceUID": NAME.encode(),
    "SOPClassUID": NAME.encode(),
    "PhotometricInterpretation": NAME,
    "NumberOfFrames": NAME.encode(),
    "WindowCenter": NAME.encode(),
    "RescaleSlope": NAME.encode(),
    "RescaleIntercept": NAME.encode(),
    "PixelSpacing": NAME.encode(),
    "VOILUTFunction": NAME,
    "SpecificCharacterSet": NAME,
    "PatientAge": NAME.encode(),
    "PatientBirthDate": NAME.encode(),
    "StudyDate": NAME.encode(),
    "SliceThickness": NAME.encode(),
    "BitsAllocated": NAME.encode()[:2],
    "Rows": NAME.encode(),
    "PixelPaddingValue": NAME.encode(),
}


@pytest.fixture
def files(make, tmp_path):
    pixels = make.head(rows=104, columns=100)
    held = {
        "all text": make.native(pixels, **TEXT),
        "no head": make.native(np.zeros_like(pixels), **TEXT | {"BodyPartExamined": "BRAIN"}),
        "truncated": make.native(pixels, **TEXT | {"BodyPartExamined": "BRAIN"})[:-9000],
        "damaged": make.compressed(pixels, uid.JPEG2000Lossless, **TEXT | {"BodyPartExamined": "BRAIN"}).replace(
            b"\xff\x93", b"\xff\x00"
        ),
        "syntax": make.native(pixels, NAME, **TEXT),
        "deflated": make.deflated_part10(NAME.encode() * 1000),
        "garbage": make.part10(NAME.encode() * 1000, uid.ExplicitVRLittleEndian),
        "text": NAME.encode() * 50,
        "element": b"\x08\x00\x05\x00" + NAME.encode() * 50,
    }
    for name, value in MISPLACED.items():
        held[f"misplaced {name}"] = make.native(pixels, **TEXT | {"BodyPartExamined": "BRAIN"} | {name: value})
        held[f"implicit {name}"] = make.native(
            pixels, uid.ImplicitVRLittleEndian, **TEXT | {"BodyPartExamined": "BRAIN"} | {name: value}
        )
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", NAME)
    exif = Image.Exif()
    exif[0x013B] = NAME
    held["png"] = make.picture(np.zeros((100, 100), np.uint8), pnginfo=notes, exif=exif)
    held["jpeg"] = make.picture(np.zeros((100, 100), np.uint8), "JPEG", comment=NAME, exif=exif)[:-200]
    for name, data in held.items():
        (tmp_path / name).write_bytes(data)
        assert NAME.encode() in data or name == "deflated"
    return [tmp_path / name for name in held]


def test_no_name_leaves_the_header(files):
    child = subprocess.run(
        [sys.executable, "-W", "always", "-c", READER, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert len(child.stdout.splitlines()) == len(files)
    said = [line for line in (child.stdout + child.stderr).splitlines() if NAME in line]
    assert not said


def test_uids_that_are_none_are_not_kept(make):
    # Two of 200 characters that differ at the end must not become one.
    from slicewise.worker.imaging import open_scan

    long = b"1." * 100
    for value, kept in [(long, None), (b"1.2." + b"3" * 60, "1.2." + "3" * 60), (b"1.2.3^Doe", None), (b"", None)]:
        data = make.native(make.head(rows=104, columns=100), SOPInstanceUID=value)
        assert open_scan(data).header.sop_instance_uid == kept
