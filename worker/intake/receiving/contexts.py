"""What is let in: which SOP classes, in which transfer syntaxes."""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import PresentationContext, build_context

VERIFICATION = "1.2.840.10008.1.1"

_STANDARD_ROOT = "1.2.840.10008."
_COMPOSITE_ROOT = "1.2.840.10008.5.1.4."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."

# Not kept: the data set of a JPIP syntax refers to pixels elsewhere, and SMPTE ST 2110 is a stream beside DICOM.
_ELSEWHERE = frozenset(
    {
        "1.2.840.10008.1.2.4.94",
        "1.2.840.10008.1.2.4.95",
        "1.2.840.10008.1.2.4.204",
        "1.2.840.10008.1.2.4.205",
        "1.2.840.10008.1.2.7.1",
        "1.2.840.10008.1.2.7.2",
        "1.2.840.10008.1.2.7.3",
    }
)

# Encapsulated uncompressed (PS3.5 A.4.11), which pynetdicom's list lacks.
TRANSFER_SYNTAXES = frozenset({*map(str, ALL_TRANSFER_SYNTAXES), "1.2.840.10008.1.2.1.98"}) - _ELSEWHERE


def supported(requested: Iterable[PresentationContext]) -> list[PresentationContext]:
    """Of what a peer proposes, what is accepted; of several transfer syntaxes its first, to spare it a conversion.

    Only what is proposed: pynetdicom copies the list for each association, and all of it takes 0.1 s.
    """
    wanted: dict[str, dict[str, None]] = {}
    for context in requested:
        known = [str(syntax) for syntax in context.transfer_syntax if str(syntax) in TRANSFER_SYNTAXES]
        if known and (context.abstract_syntax == VERIFICATION or is_storage(str(context.abstract_syntax))):
            wanted.setdefault(str(context.abstract_syntax), {}).update(dict.fromkeys(known))
    return [build_context(abstract, list(syntaxes)) for abstract, syntaxes in wanted.items()]


def is_storage(sop_class: str) -> bool:
    """Whether a SOP class is stored as a file: the standard's, retired ones too, and anybody's private ones.

    What is no picture of a head is refused later, by a row: every input is accounted for.
    """
    if not sop_class.startswith(_STANDARD_ROOT):
        return True
    known = UID(sop_class)
    if known.type:
        return known.type == "SOP Class" and "Storage" in known.name and sop_class.startswith(_COMPOSITE_ROOT)
    # Newer than this pydicom.
    return sop_class.startswith(_STORAGE_ROOT)
