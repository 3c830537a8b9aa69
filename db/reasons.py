"""Why an input was refused, or an answer withheld: the codes that stand in the database and in every answer."""

from __future__ import annotations

from enum import StrEnum


class RefusalReason(StrEnum):
    """One code per kind of refusal. Codes are never renamed: stored rows use them."""

    EMPTY_FILE = "empty_file"
    UNREADABLE = "unreadable"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    TRUNCATED_PIXELS = "truncated_pixels"
    CORRUPT_PIXELS = "corrupt_pixels"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    WRONG_MODALITY = "wrong_modality"
    NOT_BRAIN = "not_brain"
    LOCALISER = "localiser"
    MOSAIC = "mosaic"
    DERIVED_MAP = "derived_map"
    COLOUR = "colour"
    BLANK = "blank"
    NO_HEAD = "no_head"
    UNFAMILIAR = "unfamiliar"
    KILLED_THE_WORKER = "killed_the_worker"


class AbstentionReason(StrEnum):
    """Why a slice that can be assessed has no label."""

    UNCERTAIN = "uncertain"
    STRANGE = "strange"
