"""What a header must say before a slice of it may be assessed: MR, of the head, and a picture of anatomy.

Nothing of the header is quoted but a modality of the standard: free text, even where a code belongs, may be a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from pydicom import Dataset, uid
from pydicom.charset import convert_encodings, decode_bytes

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused

# PS3.3 C.7.3.1.1.1, with the retired ones that archives still hold.
_MODALITIES = frozenset(
    [
        "ANN",
        "AR",
        "ASMT",
        "AU",
        "BDUS",
        "BI",
        "BMD",
        "CFM",
        "CR",
        "CT",
        "CTPROTOCOL",
        "DG",
        "DMS",
        "DOC",
        "DX",
        "ECG",
        "EEG",
        "EMG",
        "EOG",
        "EPS",
        "ES",
        "FID",
        "GM",
        "HC",
        "HD",
        "IO",
        "IOL",
        "IVOCT",
        "IVUS",
        "KER",
        "KO",
        "LEN",
        "LS",
        "M3D",
        "MG",
        "MR",
        "NM",
        "OAM",
        "OCT",
        "OP",
        "OPM",
        "OPT",
        "OPTBSV",
        "OPTENF",
        "OPV",
        "OSS",
        "OT",
        "PA",
        "PLAN",
        "POS",
        "PR",
        "PT",
        "PX",
        "REG",
        "RESP",
        "RF",
        "RG",
        "RTDOSE",
        "RTIMAGE",
        "RTINTENT",
        "RTPLAN",
        "RTRAD",
        "RTRECORD",
        "RTSEGANN",
        "RTSTRUCT",
        "RWV",
        "SEG",
        "SM",
        "SMR",
        "SR",
        "SRF",
        "STAIN",
        "TEXTUREMAP",
        "TG",
        "US",
        "VA",
        "XA",
        "XAPROTOCOL",
        "XC",
        "CD",
        "CF",
        "CP",
        "CS",
        "DD",
        "DF",
        "DM",
        "DS",
        "EC",
        "FA",
        "FS",
        "LP",
        "MA",
        "MS",
        "OPR",
        "ST",
        "TH",
        "VF",
    ]
)

# Words are searched in plain text: lower case, without accents, one blank for an underscore.
_BRAIN_WORDS = re.compile(
    # A bone's head is none.
    r"brain|(?<!femoral )(?<!humeral )(?<!radial )head|cereb|neuro|pituit|sella|mprage|encephal|hippocamp|skull|"
    # German, Dutch, Scandinavian
    r"kopf|schadel|hirn|hypophys|hersen|hoofd|schedel|hjern|hjarn|"
    # French, Spanish, Portuguese, Italian; cran: crane, cranio, intracranial
    r"\btete\b|cerveau|cran|cabe[zc]a|cerebr|cervell|\btesta\b|hipofis|ipofis|"
    # Polish, Czech, Turkish, Russian
    r"g[lł]ow[ay]|mozg|mozek|hlav[ay]|beyin|мозг|голов|череп|гипофиз|"
    # Japanese and Chinese, Korean
    r"頭|头|脳|脑|颅|뇌|두부"
)

_OTHER_WORDS = re.compile(
    r"shoulder|knee|abdom|pelvi|spine|spinal|lumb|thora|chest|cervic|sacr|\bneck\b|heart|cardi|liver|kidney|renal|"
    r"prostat|breast|mamm|\bhip\b|ankle|wrist|elbow|\bfoot\b|\bhand\b|femur|femoral|tibia|humer|forearm|\bleg\b|\barm\b|"
    r"\buter|\bovar|rectum|bowel|pancrea|spleen|orbit|whole.?body|phantom|"
    r"schulter|\bknie|wirbel|hufte|becken|rodilla|hombro|columna|joelho|ombro|coluna|genou|epaule|rachis|ginocchi|spalla|"
    r"колен|позвоноч|плеч|膝|肩|脊|腰|무릎|척추"
)

# PS3.3 C.8.3.1.1.1 (Image Type value 3) and what vendors write there or in the description.
_LOCALISER_WORDS = re.compile(
    r"\bloc\b|(locali[sz]|lokali[sz]|localizz)(er|ador|ateur|atore)|\bscout|survey|3.?plane|three.?plane|3.?pl.?loc|"
    r"topogram|smartbrain|reperage"
)

# Enhanced MR Image Type value 4 (PS3.3 C.8.13.3.1) and vendors' own: numbers, not anatomy.
_MAP_TYPES = {
    *{"ADC", "FA", "RA", "TRACEW", "TENSOR", "TENSOR_B0", "DIFFUSION_ANISO", "PHASE", "P", "PHASE MAP", "VELOCITY"},
    *{"T1 MAP", "T2 MAP", "T2_STAR MAP", "B0 MAP", "B1 MAP", "FIELD MAP", "PROTON_DENSITY MAP", "FIELD_MAP"},
    *{"RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "PERFUSION", "PBP", "SUBTRACTION", "MEAN CURVE"},
    *{"PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MNIP"},
}

# Objects whose pixels are labels or quantities, whatever their modality says.
_MAP_CLASSES = {uid.SegmentationStorage, uid.ParametricMapStorage, "1.2.840.10008.5.1.4.1.1.66.7"}  # label map

# Body parts that say nothing.
_UNTOLD = {"", "none", "other", "undefined", "unknown"}

# Descriptions have 64 characters (PS3.5 6.2, LO); a hostile one may have millions.
_LONGEST_TEXT = 1024


def modality(dataset: Dataset) -> str | None:
    """The modality where it is one of the standard's; None for nothing and for anything else."""
    value = str(dataset.get("Modality") or "")
    return value if value in _MODALITIES else None


def check(dataset: Dataset, *, has_pixels: bool) -> None:
    """Refuse what its header shows to be no slice of a head by MR.

    Parameters
    ----------
    dataset
        The header.
    has_pixels
        Whether Pixel Data follows it.

    Raises
    ------
    Refused
        ``not_an_image``, ``wrong_modality``, ``mosaic``, ``localiser``, ``derived_map`` or ``not_brain``.
    """
    if not has_pixels and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
        raise Refused(RefusalReason.NOT_AN_IMAGE, "it holds no pixel data")
    if modality(dataset) != "MR":
        stated = modality(dataset) or ("no valid code" if dataset.get("Modality") else "not given")
        raise Refused(RefusalReason.WRONG_MODALITY, f"the modality is {stated}; only MR is assessed")
    types = {str(value).upper().strip() for value in _values(dataset, "ImageType")}
    if "MOSAIC" in types:
        raise Refused(RefusalReason.MOSAIC, "many slices tiled in one picture")
    series = _text(dataset, "SeriesDescription", "ProtocolName")
    if "LOCALIZER" in types or _LOCALISER_WORDS.search(series):
        raise Refused(RefusalReason.LOCALISER, "a localiser: it plans the examination")
    if types & _MAP_TYPES or dataset.get("SOPClassUID") in _MAP_CLASSES:
        raise Refused(RefusalReason.DERIVED_MAP, "a calculated map or projection, not a slice of anatomy")
    _check_body_part(dataset, series)


def _check_body_part(dataset: Dataset, series: str) -> None:
    # The closer to the pixels, the better it knows: a study of brain and spine has series of either.
    part = _plain(_body_part(dataset)) or _region(dataset)
    if part not in _UNTOLD:
        if not _BRAIN_WORDS.search(part):
            raise Refused(RefusalReason.NOT_BRAIN, "the header names another body part")
        return
    for text in (series, _text(dataset, "StudyDescription")):
        if _BRAIN_WORDS.search(text):
            return
        if _OTHER_WORDS.search(text):
            raise Refused(RefusalReason.NOT_BRAIN, "the descriptions name another body part")


def _body_part(dataset: Dataset) -> str:
    """Body Part Examined, also where it is written in the data set's own characters, against its VR (PS3.5 6.2, CS)."""
    text = " ".join(str(value) for value in _values(dataset, "BodyPartExamined"))
    if text.isascii():
        return text
    encodings = convert_encodings(dataset.get("SpecificCharacterSet"))
    return decode_bytes(text.encode("latin-1", "replace"), encodings, set())


def _region(dataset: Dataset) -> str:
    """Anatomic region of the object, or of all its frames (PS3.3 C.7.6.16.2.8)."""
    groups = dataset.get("SharedFunctionalGroupsSequence") or []
    anatomy = [item for group in groups[:1] for item in group.get("FrameAnatomySequence") or []]
    regions = [item for place in (dataset, *anatomy[:1]) for item in place.get("AnatomicRegionSequence") or []]
    return _text(regions[0], "CodeMeaning") if regions else ""


def _values(dataset: Dataset, name: str) -> Iterator[object]:
    value = dataset.get(name)
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        value = [] if value is None else [value]
    yield from value


def _text(dataset: Dataset, *names: str) -> str:
    """The values of some attributes as plain text."""
    return _plain(" ".join(str(value)[:_LONGEST_TEXT] for name in names for value in _values(dataset, name)))


def _plain(text: str) -> str:
    bare = (c for c in unicodedata.normalize("NFKD", text[:_LONGEST_TEXT]) if not unicodedata.combining(c))
    # Composed again for Korean, whose syllables come apart.
    return unicodedata.normalize("NFC", "".join(bare)).casefold().replace("_", " ").strip()
