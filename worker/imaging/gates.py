"""What a header must say before a slice of it may be assessed: MR, of the head, and a picture of anatomy.

Nothing of the header is quoted but a modality of the standard: free text, even where a code belongs, may be a name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import words

# Descriptions have 64 characters (PS3.5 6.2, LO); a hostile one may have millions.
_LONGEST_TEXT = 1024

# What the root of the standard's own UIDs begins with; under any other, vendors keep their own kinds of picture.
_STANDARD = "1.2.840.10008."


def modality(dataset: Dataset) -> str | None:
    """The modality where it is one of the standard's; None for nothing and for anything else."""
    value = str(dataset.get("Modality") or "")
    return value if value in words.MODALITIES else None


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
    _check_class(str(dataset.get("SOPClassUID") or ""))
    series = _text(dataset, "SeriesDescription")
    if words.LOCALISER.search(f"{series} {_text(dataset, 'ProtocolName')}"):
        raise _localiser()
    if words.MAP.search(series):
        raise _map()
    shared = _groups(dataset, "SharedFunctionalGroupsSequence", 0)
    _check_kind(dataset, shared)
    _check_body_part(dataset, shared, series)


def check_frame(dataset: Dataset, index: int) -> None:
    """Refuse a frame of an enhanced object (PS3.3 C.7.6.16) that is no slice of a head, though others may be.

    Parameters
    ----------
    index
        Of the frame, from 0.

    Raises
    ------
    Refused
        As `check`.
    """
    own = _groups(dataset, "PerFrameFunctionalGroupsSequence", index)
    if own is not None:
        _check_kind(own)
        if _of_region(_region(own)) is False:
            raise _not_brain("its frame")


def _check_class(sop_class: str) -> None:
    if sop_class in words.MAP_CLASSES:
        raise _map()
    if sop_class.startswith(_STANDARD) and sop_class not in words.PICTURE_CLASSES:
        raise Refused(RefusalReason.WRONG_MODALITY, "its SOP class is none of MR pictures, though its modality is MR")


def _check_kind(*places: Dataset | None) -> None:
    """Refuse by the Image Types, Frame Types and complex components that stand at some places of the header."""
    found = [kind for place in places if place is not None for kind in _kinds(place)]
    types = {str(value).upper().replace("_", " ").strip() for types, _ in found for value in types}
    if "MOSAIC" in types:
        raise Refused(RefusalReason.MOSAIC, "many slices tiled in one picture")
    if types & words.LOCALISER_TYPES:
        raise _localiser()
    components = {component for _, component in found}
    if types & words.MAP_TYPES or any(map(words.MAP_TYPE.match, types)) or components & words.MAP_COMPONENTS:
        raise _map()


def _kinds(place: Dataset) -> Iterator[tuple[list[object], str]]:
    """Types and complex component: of the object, or of an enhanced one's frame type (PS3.3 C.8.13.5.1)."""
    yield list(_values(place, "ImageType")), str(place.get("ComplexImageComponent") or "").upper()
    for item in place.get("MRImageFrameTypeSequence") or []:
        yield list(_values(item, "FrameType")), str(item.get("ComplexImageComponent") or "").upper()


def _check_body_part(dataset: Dataset, shared: Dataset | None, series: str) -> None:
    # The closer to the pixels, the better it knows: a study of brain and spine has series of either.
    part, region = _plain(_body_part(dataset)), _of_region(_region(dataset, shared))
    told = region if part in words.UNTOLD else _is_brain(part)
    if told is False:
        raise _not_brain("the header")
    descriptions = (series, _text(dataset, "StudyDescription"))
    # Scanners preset the body part: the series may know better, the study may be of several parts.
    asked = [_certain(series)] if told else [*map(_certain, descriptions), *map(_likely, descriptions)]
    if next((verdict for verdict in asked if verdict is not None), None) is False:
        raise _not_brain("the description")


def _is_brain(part: str) -> bool:
    """Whether a body part is the brain, alone or beside its neighbours; an unknown word is not."""
    return bool(words.BRAIN.search(_bare(part))) or (_certain(part) is None and bool(_likely(part)))


def _certain(text: str) -> bool | None:
    """Whether a description names the brain (True) or another part (False); None for neither and for both."""
    brain, other = (bool(one.search(_bare(text))) for one in (words.BRAIN, words.OTHER))
    return brain if brain != other else None


def _likely(text: str) -> bool | None:
    if words.PERHAPS_OTHER.search(text):
        return False
    return True if words.PERHAPS_BRAIN.search(text) else None


def _bare(text: str) -> str:
    """A description without the brain words that say nothing of the brain."""
    return words.NO_BRAIN.sub(lambda phrase: phrase[0].replace("head", "").replace("cran", ""), text)


def _of_region(region: Dataset | None) -> bool | None:
    """Whether a coded region is of the brain; None where it is not given."""
    if region is None:
        return None
    code, meaning = str(region.get("CodeValue") or ""), _text(region, "CodeMeaning")
    if not code and not meaning:
        return None
    return code in words.BRAIN_CODES or bool(words.BRAIN.search(_bare(meaning)))


def _region(*places: Dataset | None) -> Dataset | None:
    """The first anatomic region of some places, or of their frames' anatomy (PS3.3 C.7.6.16.2.8)."""
    for place in places:
        if place is not None:
            anatomy = place.get("FrameAnatomySequence") or []
            for one in (place, *anatomy[:1]):
                for region in one.get("AnatomicRegionSequence") or []:
                    return region  # type: ignore[no-any-return]
    return None


def _groups(dataset: Dataset, name: str, index: int) -> Dataset | None:
    """The functional groups of all frames, or of one (PS3.3 C.7.6.16)."""
    groups = dataset.get(name) or []
    return groups[index] if index < len(groups) else None


def _localiser() -> Refused:
    return Refused(RefusalReason.LOCALISER, "a localiser or calibration: it plans the examination")


def _map() -> Refused:
    return Refused(RefusalReason.DERIVED_MAP, "a calculated map or projection, not a slice of anatomy")


def _not_brain(who: str) -> Refused:
    return Refused(RefusalReason.NOT_BRAIN, f"{who} names another body part")


def _body_part(dataset: Dataset) -> str:
    """Body Part Examined, also where it is written in the data set's own characters, against its VR (PS3.5 6.2, CS)."""
    text = " ".join(str(value) for value in _values(dataset, "BodyPartExamined"))
    if text.isascii():
        return text
    encodings = convert_encodings(dataset.get("SpecificCharacterSet"))
    return decode_bytes(text.encode("latin-1", "replace"), encodings, set())


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
