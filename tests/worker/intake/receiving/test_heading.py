"""Preamble and file meta information."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info

from slicewise.worker.intake.receiving.heading import IMPLEMENTATION_CLASS_UID, heading


@pytest.mark.parametrize("instance", ["1.2.3", "1.2.34", "1." + "2" * 62])
def test_pydicom_reads_it(tmp_path, instance):
    (tmp_path / "a").write_bytes(heading(uid.MRImageStorage, instance, uid.RLELossless))
    meta = read_file_meta_info(tmp_path / "a")
    assert meta.MediaStorageSOPClassUID == uid.MRImageStorage
    assert meta.MediaStorageSOPInstanceUID == instance
    assert meta.TransferSyntaxUID == uid.RLELossless
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert uid.UID(IMPLEMENTATION_CLASS_UID).is_valid


def test_its_group_length_is_right():
    written = heading(uid.MRImageStorage, "1.2.3", uid.ExplicitVRLittleEndian)
    meta = dcmread(BytesIO(written)).file_meta
    # Preamble, prefix, and the element that holds the length.
    assert meta.FileMetaInformationGroupLength == len(written) - 128 - 4 - 12
    assert meta.FileMetaInformationVersion == b"\0\1"


def test_the_same_data_set_gives_the_same_file():
    """Pinned: another heading would make another content of everything that is sent again."""
    import hashlib

    written = heading(uid.MRImageStorage, "1.2.3", uid.ExplicitVRLittleEndian)
    assert hashlib.sha256(written).hexdigest() == "137764e6bb3e5806860c7284faa8ccd7420119ed4f96c092e60e52e4c9864171"
