"""Who a data set says it is."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread, uid
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from slicewise.worker import sample
from slicewise.worker.errors import Refused
from slicewise.worker.imaging.identity import HEAD_BYTES, Identity, identify
from tests.fuzzing import examples

MR = str(uid.MRImageStorage)


def body(path) -> tuple[bytes, str]:
    """A file's encoded data set and its transfer syntax."""
    data = path.read_bytes()
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return data[128 + 4 + 12 + meta.FileMetaInformationGroupLength :], str(meta.TransferSyntaxUID)


@pytest.mark.parametrize(
    "path", sorted(set(sample.STUDY.glob("*.dcm")) - {sample.STUDY / "refuse_text.dcm"}), ids=lambda path: path.name
)
def test_it_is_what_pydicom_reads_of_the_whole(path):
    whole = dcmread(path, stop_before_pixels=True)
    data, syntax = body(path)
    assert identify(data[:HEAD_BYTES], syntax) == Identity(
        whole.SOPClassUID, whole.SOPInstanceUID, whole.StudyInstanceUID, whole.SeriesInstanceUID
    )


def encoded(dataset: Dataset, *, implicit: bool = False) -> bytes:
    writing = DicomBytesIO()
    writing.is_implicit_VR, writing.is_little_endian = implicit, True
    write_dataset(writing, dataset)
    return writing.getvalue()


def plain(**more: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.5", "1.2.4"
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


def test_what_lies_behind_the_head_is_not_known():
    dataset = plain()
    dataset.add_new(0x00091010, "OB", b"\0" * (HEAD_BYTES + 2))
    assert identify(encoded(dataset)[:HEAD_BYTES], uid.ExplicitVRLittleEndian) == Identity(MR, "1.2.3", None, None)


def test_the_uids_of_a_sequences_items_are_not_its_own():
    item = plain(SOPInstanceUID="9.9")
    dataset = plain(ReferencedImageSequence=Sequence([item]), SourceImageSequence=Sequence([item]))
    found = identify(encoded(dataset, implicit=True), uid.ImplicitVRLittleEndian)
    assert found == Identity(MR, "1.2.3", "1.2.5", "1.2.4")


def test_what_is_no_uid_is_none():
    dataset = plain()
    del dataset.SOPInstanceUID
    dataset.add_new(0x00080018, "UI", "DOE^JOHN")
    assert identify(encoded(dataset), uid.ExplicitVRLittleEndian).sop_instance_uid is None


def test_a_deflated_bomb_is_not_inflated():
    import zlib

    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(encoded(plain()) + b"\0" * 100_000_000) + deflater.flush()
    assert identify(bomb, uid.DeflatedExplicitVRLittleEndian).sop_instance_uid == "1.2.3"


@pytest.mark.parametrize("data", [b"", b"\0", b"no data set at all, but a text", b"\xff" * 1000])
def test_what_is_no_data_set_has_no_uids(data):
    with contextlib.suppress(Refused):
        assert identify(data, uid.ExplicitVRLittleEndian) == Identity(None, None, None, None)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_is_refused_and_nothing_worse(data):
    whole = bytearray(body(sample.STUDY / "brain_axial_explicit.dcm")[0][:4000])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    syntax = data.draw(
        st.sampled_from([uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
    )
    with contextlib.suppress(Refused):
        identify(bytes(whole), syntax)
