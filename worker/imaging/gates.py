"""What a header must say before a slice of it may be assessed: MR, of the head, and a picture of anatomy."""

from __future__ import annotations

import re

from pydicom import Dataset

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused

# PS3.16 CID 2 / Annex L: Body Part Examined terms that show the brain.
_BRAIN_PARTS = {"BRAIN", "HEAD", "SKULL", "HEADNECK", "PITUITARY", "SELLA", "CEREBELLUM", "WHOLEHEAD"}

_BRAIN_WORDS = re.compile(
    r"brain|head|cerebr|cereb|crane|cr[aâá]n|skull|kopf|sch[aä]del|t[eê]te|cabeza|neuro|pituit|hypophys|sella|mprage|"
    r"intracran|encephal|enc[eé]phal",
    re.IGNORECASE,
)

_OTHER_WORDS = re.compile(
    r"shoulder|knee|abdom|pelvi|spine|spinal|lumb|thora|chest|cervic|sacr|\bneck\b|heart|cardi|liver|kidney|renal|"
    r"prostat|breast|mamm|\bhip\b|ankle|wrist|elbow|\bfoot\b|\bhand\b|femur|tibia|humer|forearm|\bleg\b|\barm\b|"
    r"uter|ovar|rectum|bowel|pancrea|spleen|orbit|whole.?body|schulter|\bknie|wirbel|rodilla|hombro|columna|genou|"
    r"[eé]paule|rachis|phantom",
    re.IGNORECASE,
)

# PS3.3 C.8.3.1.1.1 (Image Type value 3) and what vendors write there or in the description.
_LOCALISER_WORDS = re.compile(
    r"\bloc\b|locali[sz]er|\bscout|survey|3.?plane|three.?plane|3.?pl.?loc|topogram|smartbrain", re.IGNORECASE
)

# Enhanced MR Image Type value 4 (PS3.3 C.8.13.3.1) and vendors' own: numbers, not anatomy.
_MAP_TYPES = {
    *{"ADC", "FA", "RA", "TRACEW", "TENSOR", "TENSOR_B0", "DIFFUSION_ANISO", "PHASE", "P", "PHASE MAP", "VELOCITY"},
    *{"T1 MAP", "T2 MAP", "T2_STAR MAP", "B0 MAP", "B1 MAP", "FIELD MAP", "PROTON_DENSITY MAP", "FIELD_MAP"},
    *{"RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "PERFUSION", "PBP", "SUBTRACTION", "MEAN CURVE"},
    *{"PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "MNIP"},
}

_IMAGE_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def check(dataset: Dataset) -> None:
    """Refuse what its header shows to be no slice of a head by MR.

    Raises
    ------
    Refused
        ``not_an_image``, ``wrong_modality``, ``mosaic``, ``localiser``, ``derived_map`` or ``not_brain``.
    """
    if not any(element in dataset for element in _IMAGE_ELEMENTS):
        raise Refused(RefusalReason.NOT_AN_IMAGE, "it holds no pixel data")
    modality = dataset.get("Modality") or "none given"
    if modality != "MR":
        raise Refused(RefusalReason.WRONG_MODALITY, f"the modality is {_code(modality)}; only MR is assessed")
    types = {str(value).upper().strip() for value in _values(dataset, "ImageType")}
    if "MOSAIC" in types:
        raise Refused(RefusalReason.MOSAIC, "many slices tiled in one picture")
    text = " ".join(_text(dataset, name) for name in ("SeriesDescription", "ProtocolName"))
    if "LOCALIZER" in types or _LOCALISER_WORDS.search(text):
        raise Refused(RefusalReason.LOCALISER, "a localiser: it plans the examination")
    if types & _MAP_TYPES:
        raise Refused(RefusalReason.DERIVED_MAP, "a calculated map or projection, not a slice of anatomy")
    _check_body_part(dataset, text)


def _check_body_part(dataset: Dataset, text: str) -> None:
    part = re.sub(r"[^A-Z]", "", _text(dataset, "BodyPartExamined").upper())
    if part in _BRAIN_PARTS or _BRAIN_WORDS.search(part):
        return
    if part:
        raise Refused(RefusalReason.NOT_BRAIN, "the header names another body part")
    text += " " + _text(dataset, "StudyDescription")
    if _OTHER_WORDS.search(text) and not _BRAIN_WORDS.search(text):
        raise Refused(RefusalReason.NOT_BRAIN, "the descriptions name another body part")


def _values(dataset: Dataset, name: str) -> list[object]:
    value = dataset.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _text(dataset: Dataset, name: str) -> str:
    return " ".join(str(value) for value in _values(dataset, name))


def _code(value: object) -> str:
    # A code string (PS3.5 6.2, CS) is what it may be; anything else in this place could be a name.
    text = str(value)
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}|none given", text) else "no valid code"
