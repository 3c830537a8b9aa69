"""Compressed frames out of encapsulated pixel data (PS3.5 A.4).

Every length is checked against what is there, and an offset table is believed only where it fits the fragments.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import limits

# The tags (FFFE,E000) and (FFFE,E0DD), read as one little endian number.
_ITEM = 0xE000FFFE
_SEQUENCE_DELIMITATION = 0xE0DDFFFE

_END_OF_IMAGE = b"\xff\xd9"

Span = tuple[int, int]
"""First and one-past-last byte of a fragment in the pixel data."""


def frames(value: memoryview, count: int) -> Iterator[bytes]:
    """Yield the compressed frames, one at a time.

    Parameters
    ----------
    value
        The value of Pixel Data, from the item of the offset table on.
    count
        Number of frames that the header gives.

    Raises
    ------
    Refused
        ``truncated_pixels`` or ``corrupt_pixels``, before any frame is yielded.
    """
    table, *fragments = list(_items(value)) or [(0, 0)]
    # An empty fragment holds nothing (PS3.5 A.4 forbids it) and must not shift the frames behind it.
    fragments = [span for span in fragments if span[0] < span[1]]
    if len(fragments) < count:
        raise Refused(RefusalReason.TRUNCATED_PIXELS, f"{len(fragments)} compressed fragments for {count} frames")
    for group in _grouped(value, fragments, table, count):
        yield b"".join(value[start:end] for start, end in group)


def _items(value: memoryview) -> Iterator[Span]:
    at, number = 0, 0
    while at + 8 <= len(value):
        tag, length = struct.unpack_from("<LL", value, at)
        if tag == _SEQUENCE_DELIMITATION:
            return
        if tag != _ITEM:
            raise Refused(RefusalReason.CORRUPT_PIXELS, "its compressed fragments cannot be told apart")
        start, at, number = at + 8, at + 8 + length, number + 1
        if at > len(value):
            raise Refused(RefusalReason.TRUNCATED_PIXELS, "a compressed fragment runs past the end of the file")
        if number > limits.MAX_FRAGMENTS:
            raise Refused(RefusalReason.TOO_LARGE, f"more than {limits.MAX_FRAGMENTS} compressed fragments")
        yield start, at


def _grouped(value: memoryview, fragments: Sequence[Span], table: Span, count: int) -> list[Sequence[Span]]:
    """The fragments of each frame."""
    if len(fragments) == count:
        return [[fragment] for fragment in fragments]
    firsts = _firsts_by_table(value, fragments, table) or _firsts_by_end_of_image(value, fragments)
    if len(firsts) != count:
        raise Refused(
            RefusalReason.CORRUPT_PIXELS, f"{count} frames cannot be found in {len(fragments)} compressed fragments"
        )
    return [fragments[first:last] for first, last in zip(firsts, [*firsts[1:], len(fragments)], strict=True)]


def _firsts_by_table(value: memoryview, fragments: Sequence[Span], table: Span) -> list[int]:
    """Index of each frame's first fragment by the Basic Offset Table; empty where it does not fit the fragments."""
    size = (table[1] - table[0]) // 4
    offsets = struct.unpack_from(f"<{size}L", value, table[0])
    # Counted from the first byte of the item tag behind the table.
    index = {start - 8 - table[1]: number for number, (start, _) in enumerate(fragments)}
    firsts = [index.get(offset, -1) for offset in offsets]
    ascending = all(a < b for a, b in itertools.pairwise(firsts))
    return firsts if firsts[:1] == [0] and ascending else []


def _firsts_by_end_of_image(value: memoryview, fragments: Sequence[Span]) -> list[int]:
    """Index of each frame's first fragment by the marker that ends the JPEG or JPEG 2000 picture before it."""
    ends = [bytes(value[max(start, end - 2) : end]) for start, end in _without_padding(value, fragments)]
    return [0, *(number for number, end in enumerate(ends[:-1], start=1) if end == _END_OF_IMAGE)]


def _without_padding(value: memoryview, fragments: Sequence[Span]) -> Iterator[Span]:
    for start, end in fragments:
        # Fragments are padded to an even length (PS3.5 A.4).
        yield start, end - 1 if value[end - 1] == 0 else end
