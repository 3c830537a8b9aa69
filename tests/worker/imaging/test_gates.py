"""What the header must say before a slice may be assessed."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.imaging import load, open_scan

HEAD = {"rows": 104, "columns": 100}


@pytest.fixture
def outcome(make):
    """The reason by which an MR slice with these attributes is refused, or None."""

    def of(**elements):
        data = make.native(make.head(**HEAD), **elements)
        try:
            load(data)
        except Exception:
            return make.reason(data)
        return None

    return of


@pytest.mark.parametrize(
    "image_type",
    [
        ["ORIGINAL", "PRIMARY", "M", "ND"],
        ["DERIVED", "SECONDARY", "MPR"],
        ["DERIVED", "PRIMARY", "DIFFUSION", "TRACE"],
        # The real part of an inversion recovery is the picture that is read.
        ["DERIVED", "PRIMARY", "OTHER", "R", "IR"],
        ["ORIGINAL"],
        [],
    ],
)
def test_pictures_of_anatomy_pass(outcome, image_type):
    assert outcome(ImageType=image_type) is None


@pytest.mark.parametrize(
    ("image_type", "reason"),
    [
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], RefusalReason.LOCALISER),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"], RefusalReason.DERIVED_MAP),
        (["ORIGINAL", "PRIMARY", "P", "ND"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "PRIMARY", "PERFUSION", "RCBV"], RefusalReason.DERIVED_MAP),
        (["derived", "secondary", " fa "], RefusalReason.DERIVED_MAP),
        (["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], RefusalReason.MOSAIC),
        (["ORIGINAL", "PRIMARY", "SCOUT"], RefusalReason.LOCALISER),
        (["DERIVED", "PRIMARY", "DIFFUSION", "EADC"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "RELCBF"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "PRIMARY", "M", "T1_MAP"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "COLLAPSE"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "MIP_SAG"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "REFORMATTED", "VRT"], RefusalReason.DERIVED_MAP),
        (["ORIGINAL", "PRIMARY", "CSI"], RefusalReason.DERIVED_MAP),
        (["ORIGINAL", "PRIMARY", "IMAGINARY"], RefusalReason.DERIVED_MAP),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], RefusalReason.DERIVED_MAP),
    ],
)
def test_other_kinds_of_picture_are_refused(outcome, image_type, reason):
    assert outcome(ImageType=image_type) is reason


@pytest.mark.parametrize(
    "text",
    [
        *["localizer", "3-plane loc", "AX_LOC", "Brain Scout", "LOC", "Survey", "3 Plane Localiser", "SmartBrain"],
        *["Lokalizer", "Localisateur", "Localizador", "REPÉRAGE", "Topogram", "3plscout", "pilot", "localiseur"],
        *["Lokalisator", "locator", "Scanogram", "loc1", "ASSET calibration", "Ref scan", "Übersicht", "coil survey"],
    ],
)
@pytest.mark.parametrize("where", ["SeriesDescription", "ProtocolName"])
def test_localisers_by_their_description(outcome, text, where):
    assert outcome(**{"SpecificCharacterSet": "ISO_IR 192", where: text}) is RefusalReason.LOCALISER


@pytest.mark.parametrize(
    "text", ["Ax T1 stereotactic localization", "T1 BLOCK", "ALLOC", "SAG T1", "T1 prescan norm", "Pilot study T1"]
)
def test_words_that_only_look_like_a_localiser(outcome, text):
    assert outcome(SeriesDescription=text) is None


@pytest.mark.parametrize(
    "text",
    [
        *[
            "ADC",
            "Ax DWI_ADC",
            "eADC",
            "rCBV",
            "relCBF",
            "ep2d_diff_FA",
            "DTI FA",
            "ColFA",
            "FA map",
            "T1 map",
            "T2_map",
            "QSM",
        ],
        *[
            "AX MIP",
            "mIP_Images(SW)",
            "Pha_Images",
            "phase map",
            "TTP",
            "field map",
            "Dose Report",
            "Screen Save",
            "MTT",
        ],
        *["T1 subtraction", "CSI", "VRT 3D", "R2star map", "Apparent Diffusion Coefficient"],
    ],
)
def test_maps_by_their_description(outcome, text):
    assert outcome(SeriesDescription=text) is RefusalReason.DERIVED_MAP
    # One protocol gives pictures and maps.
    assert outcome(SeriesDescription="Ax DWI", ProtocolName=text) is None


@pytest.mark.parametrize(
    "text", ["FA 15 T1", "IN PHASE", "OUT OF PHASE", "DWI b1000", "T1 mapped", "sub-01_T1w", "pd tse", "SWI"]
)
def test_words_that_only_look_like_a_map(outcome, text):
    assert outcome(SeriesDescription=text) is None


@pytest.mark.parametrize(
    ("sop_class", "reason"),
    [
        (uid.EnhancedMRImageStorage, None),
        (uid.SecondaryCaptureImageStorage, None),
        ("1.3.46.670589.11.0.0.12.1", None),
        (uid.CTImageStorage, RefusalReason.WRONG_MODALITY),
        (uid.UltrasoundImageStorage, RefusalReason.WRONG_MODALITY),
        (uid.RTDoseStorage, RefusalReason.DERIVED_MAP),
    ],
)
def test_the_class_must_be_one_of_mr_pictures(outcome, sop_class, reason):
    assert outcome(SOPClassUID=sop_class) is reason


@pytest.mark.parametrize("where", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"FrameType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}, None),
        ({"FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, RefusalReason.DERIVED_MAP),
        ({"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}, RefusalReason.LOCALISER),
        ({"ComplexImageComponent": "PHASE"}, RefusalReason.DERIVED_MAP),
        ({"ComplexImageComponent": "MAGNITUDE"}, None),
    ],
)
def test_the_frame_type_of_enhanced_objects(make, where, elements, reason):
    groups = make.item(MRImageFrameTypeSequence=[make.item(**elements)])
    data = make.native(make.head(**HEAD), **{where: [groups]})
    if reason and where.startswith("Shared"):
        assert make.reason(data) is reason
    else:
        (frame,) = open_scan(data).slices()
        assert getattr(frame, "reason", None) is reason


def test_a_map_among_pictures_costs_only_itself(make):
    pixels = np.stack([make.head(**HEAD)] * 3)
    types = (["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], None)
    frames = [make.item(MRImageFrameTypeSequence=[make.item(FrameType=kind)] if kind else []) for kind in types]
    frames[2].FrameAnatomySequence = [
        make.item(AnatomicRegionSequence=[make.item(CodeValue="72696002", CodeMeaning="Knee")])
    ]
    data = make.native(pixels, frames=3, PerFrameFunctionalGroupsSequence=frames)
    found = [getattr(frame, "reason", None) for frame in open_scan(data).slices()]
    assert found == [None, RefusalReason.DERIVED_MAP, RefusalReason.NOT_BRAIN]
    assert len(load(data)) == 1


@pytest.mark.parametrize("part", ["HEAD", "BRAIN", ""])
@pytest.mark.parametrize(
    "series",
    [
        *[
            "KNEE head coil",
            "SAG C-SPINE",
            "femur head T1",
            "craniocaudal liver",
            "HWS sag",
            "LWS",
            "Leber",
            "Hüfte",
            "hanche",
        ],
        *["MRCP", "TMJ closed", "thigh T1", "fetal", "prostate", "mamma", "NEURO^SPINE", "genou", "phantom", "Becken"],
    ],
)
def test_a_series_of_another_part_is_refused_though_the_body_part_is_preset(outcome, part, series):
    elements = {"SpecificCharacterSet": "ISO_IR 192", "BodyPartExamined": part, "SeriesDescription": series}
    assert outcome(**elements, StudyDescription="MRI HEAD") is RefusalReason.NOT_BRAIN


@pytest.mark.parametrize("part", ["HEAD", ""])
@pytest.mark.parametrize(
    "series",
    [
        *[
            "T1 POST GAD BRAIN",
            "AX FLAIR",
            "SAG T1 MPRAGE",
            "cor T2 pituitary",
            "SELLA",
            "IAC",
            "ORBITS fs",
            "fMRI right hand",
        ],
        *["3D TOF HEAD", "AX T2 HEADNECK", "T2 FLAIR cardiac gated", "SWI", "choroid plexus", "dural fistula", "T1 SE"],
    ],
)
def test_what_is_scanned_of_a_head_passes(outcome, part, series):
    assert outcome(BodyPartExamined=part, SeriesDescription=series, StudyDescription="MRI BRAIN") is None


BRAINS = [
    *["BRAIN", "HEAD", "SKULL", "HEADNECK", "HEAD AND NECK", "Pituitary", "SELLA TURCICA", "CEREBELLUM", "Neuro"],
    *["Kopf", "Schädel", "SCHAEDEL/HIRN", "Tête", "CRÂNE", "cerveau", "cabeza", "Cráneo", "Cérebro", "CABEÇA"],
    *["Encéfalo / cerebro", "Encephale", "cranio", "hersenen", "Hjerne", "głowa", "mózg", "hlava", "Beyin"],
    *["Головной мозг", "頭部", "脳", "颅脑", "头部", "뇌", "BRAIN_SPINE"],
]
OTHERS = [
    *["KNEE", "ABDOMEN", "CSPINE", "NECK", "PELVIS", "Schulter", "Genou", "rodilla", "колено", "膝関節", "무릎", "TOE"],
    *["SHOULDER_LEFT", "épaule", "HUMERAL HEAD", "Lendenwirbelsäule", "THIGH", "NEURO SPINE"],
]


@pytest.mark.parametrize("part", BRAINS)
def test_body_parts_that_show_the_brain(outcome, part):
    elements = {"SpecificCharacterSet": "ISO_IR 192", "BodyPartExamined": part.encode()}
    assert outcome(**elements, SeriesDescription="T1") is None


@pytest.mark.parametrize(
    ("charset", "part"),
    [
        ("ISO_IR 100", "SCHÄDEL".encode("latin-1")),
        ("", "TÊTE".encode("latin-1")),
        ("GB18030", "头部".encode("gb18030")),
        ("ISO_IR 144", "ГОЛОВА".encode("iso8859-5")),
    ],
)
def test_body_parts_in_other_characters(outcome, charset, part):
    assert outcome(SpecificCharacterSet=charset, BodyPartExamined=part, SeriesDescription="T1") is None


@pytest.mark.parametrize("part", OTHERS)
def test_other_body_parts(outcome, part):
    elements = {"SpecificCharacterSet": "ISO_IR 192", "BodyPartExamined": part.encode()}
    assert outcome(**elements, SeriesDescription="T1") is RefusalReason.NOT_BRAIN
    # The body part is what the header says of the pixels; a description may be the protocol's.
    assert outcome(**elements, SeriesDescription="T1 brain") is RefusalReason.NOT_BRAIN


@pytest.mark.parametrize("part", ["", "UNKNOWN", "Other", "NONE"])
@pytest.mark.parametrize(
    ("series", "study", "refused"),
    [
        ("T1 AX", "MRI BRAIN", False),
        ("T1 AX", "", False),
        ("AX_T2_KNEE", "", True),
        ("T1 AX", "MR HIP LEFT FOOT", True),
        ("T2 SAG C-SPINE", "MRI BRAIN AND SPINE", True),
        ("T1 AX BRAIN", "MRI BRAIN AND SPINE", False),
        ("Schädel T1 / HWS", "", False),
        ("T1 femoral head hip", "", True),
        ("Hippocampus T2", "", False),
        ("computed outer shell", "", False),
    ],
)
def test_descriptions_where_the_body_part_is_untold(outcome, part, series, study, refused):
    expected = RefusalReason.NOT_BRAIN if refused else None
    assert (
        outcome(
            SpecificCharacterSet="ISO_IR 192", BodyPartExamined=part, SeriesDescription=series, StudyDescription=study
        )
        is expected
    )


@pytest.mark.parametrize(
    ("code", "meaning", "refused"), [("X", "Brain", False), ("12738006", "Gehirn", False), ("X", "Knee joint", True)]
)
@pytest.mark.parametrize("shared", [False, True])
def test_the_anatomic_region_of_enhanced_objects(make, outcome, code, meaning, refused, shared):
    region = make.item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
    if shared:
        anatomy = make.item(AnatomicRegionSequence=[region])
        elements = {"SharedFunctionalGroupsSequence": [make.item(FrameAnatomySequence=[anatomy])]}
    else:
        elements = {"AnatomicRegionSequence": [region]}
    assert outcome(SeriesDescription="T1", **elements) is (RefusalReason.NOT_BRAIN if refused else None)


@pytest.mark.parametrize("modality", ["CT", "PT", "US", "SEG", "RTDOSE", "NM", "", "mr", "Smith", None, ["MR", "MR"]])
def test_other_modalities(make, modality):
    data = make.native(make.head(**HEAD), Modality=modality)
    refusal = make.refusal(data)
    assert refusal.reason is RefusalReason.WRONG_MODALITY
    assert "Smith" not in refusal.detail


def test_modality_is_missing(make):
    pixels = make.head(**HEAD)
    data = make.native(pixels, Modality="QQ").replace(b"\x08\x00\x60\x00CS\x02\x00QQ", b"")
    assert make.refusal(data).detail == "the modality is not given; only MR is assessed"


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("SR", uid.ComprehensiveSRStorage),
        ("DOC", uid.EncapsulatedPDFStorage),
        ("RTSTRUCT", uid.RTStructureSetStorage),
        ("RTPLAN", uid.RTPlanStorage),
        ("PR", uid.GrayscaleSoftcopyPresentationStateStorage),
        ("MR", uid.MRSpectroscopyStorage),
    ],
)
def test_objects_without_pixels(make, modality, sop_class):
    full = make.native(make.head(**HEAD), Modality=modality, SOPClassUID=sop_class)
    without = full[: full.rindex(b"\xe0\x7f\x10\x00")]
    assert make.reason(without) is RefusalReason.NOT_AN_IMAGE


@pytest.mark.parametrize("sop_class", [uid.SegmentationStorage, uid.ParametricMapStorage])
def test_labels_and_quantities_are_no_pictures_even_of_modality_mr(outcome, sop_class):
    assert outcome(SOPClassUID=sop_class) is RefusalReason.DERIVED_MAP


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_floating_point_pixels_are_no_picture(make, name, dtype):
    values = make.head(**HEAD).astype(dtype).tobytes()
    full = make.native(make.head(**HEAD), **{name: values})
    assert make.reason(full[: full.rindex(b"\xe0\x7f\x10\x00")]) is RefusalReason.NOT_AN_IMAGE


def test_a_refused_file_keeps_its_header_facts(make):
    header = open_scan(make.native(make.head(**HEAD), Modality="CT")).header
    assert (header.modality, header.rows, header.columns) == ("CT", 104, 100)
    assert header.sop_instance_uid == "1.2.826.0.1.3680043.8.498.1"


def test_an_icon_is_not_the_picture(make):
    icon = make.item(Rows=4, Columns=4, BitsAllocated=8)
    icon.add_new("PixelData", "OW", b"\0" * 16)
    data = make.native(make.head(**HEAD), IconImageSequence=[icon])
    np.testing.assert_array_equal(load(data)[0].pixels, make.head(**HEAD))
