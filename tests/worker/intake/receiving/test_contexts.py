"""Which SOP classes and transfer syntaxes are let in."""

from __future__ import annotations

import pynetdicom
import pytest
from pydicom import uid
from pynetdicom import build_context, sop_class

from slicewise.worker.intake.receiving.contexts import TRANSFER_SYNTAXES, VERIFICATION, is_storage, supported


@pytest.mark.parametrize(
    "storage",
    [
        sop_class.MRImageStorage,
        sop_class.EnhancedMRImageStorage,
        sop_class.SecondaryCaptureImageStorage,
        sop_class.BasicTextSRStorage,
        sop_class.EncapsulatedPDFStorage,
        "1.2.840.10008.5.1.4.1.1.3",  # ultrasound multi-frame, retired
        "1.2.840.10008.5.1.4.1.1.77.1",  # "Storage - Trial"
        "1.2.840.10008.5.1.4.1.1.999",  # not in any dictionary yet
        "1.3.46.670589.11.0.0.12.1",  # private
    ],
)
def test_what_is_stored_as_a_file_is_let_in(storage):
    assert is_storage(storage)


def test_every_storage_class_that_pynetdicom_knows_is_let_in():
    known = [context.abstract_syntax for context in pynetdicom.AllStoragePresentationContexts]
    assert len(known) > 150
    assert [one for one in known if not is_storage(one)] == []


@pytest.mark.parametrize(
    "other",
    [
        VERIFICATION,
        sop_class.PatientRootQueryRetrieveInformationModelFind,
        sop_class.StorageCommitmentPushModel,
        sop_class.ModalityWorklistInformationFind,
        "1.2.840.10008.5.1.4.1.1.200.4",  # defined procedure protocols are asked for
        "1.2.840.10008.1.3.10",  # a DICOMDIR
        uid.ExplicitVRLittleEndian,
    ],
)
def test_other_services_are_not(other):
    assert not is_storage(other)


def test_the_peers_first_transfer_syntax_that_can_be_kept_is_taken():
    (context,) = supported(
        [build_context(sop_class.MRImageStorage, ["1.2.3", uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian])]
    )
    assert context.transfer_syntax == [uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian]


def test_a_class_proposed_twice_has_the_syntaxes_of_both():
    proposed = [build_context(sop_class.MRImageStorage, [syntax]) for syntax in (uid.RLELossless, uid.JPEGLSLossless)]
    (context,) = supported(proposed)
    assert context.transfer_syntax == [uid.RLELossless, uid.JPEGLSLossless]


def test_what_cannot_be_kept_is_not_supported():
    assert supported([build_context(sop_class.MRImageStorage, ["1.2.3"])]) == []
    assert supported([build_context(sop_class.MRImageStorage, ["1.2.840.10008.1.2.4.94"])]) == []
    assert supported([build_context(sop_class.PatientRootQueryRetrieveInformationModelFind)]) == []


def test_every_transfer_syntax_of_the_standard_that_holds_its_pixels_is_taken():
    elsewhere = {one for one in uid.AllTransferSyntaxes if "JPIP" in one.name or "SMPTE" in one.name}
    assert set(uid.AllTransferSyntaxes) - elsewhere <= TRANSFER_SYNTAXES
    assert not elsewhere & TRANSFER_SYNTAXES
