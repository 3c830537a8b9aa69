"""The border with other people's parsers and decoders: what becomes a refusal, and what must not."""

from __future__ import annotations

import struct

import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging.foreign import refusing


@pytest.mark.parametrize(
    "error", [ValueError("Doe^John"), RecursionError(), struct.error("x"), Warning("w"), OSError()]
)
def test_any_failure_becomes_a_refusal_without_its_words(error):
    with pytest.raises(Refused) as caught, refusing(RefusalReason.UNREADABLE, "it broke"):
        raise error
    assert caught.value.reason is RefusalReason.UNREADABLE
    assert caught.value.detail == f"it broke ({type(error).__name__})"
    # Nor by the way of a traceback.
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_not_the_files_fault_passes(error):
    with pytest.raises(error), refusing(RefusalReason.UNREADABLE, "it broke"):
        raise error


def test_a_refusal_keeps_its_own_code():
    with pytest.raises(Refused) as caught, refusing(RefusalReason.UNREADABLE, "it broke"):
        raise Refused(RefusalReason.TOO_LARGE, "much too large")
    assert caught.value.reason is RefusalReason.TOO_LARGE


def test_a_panic_in_a_decoder_written_in_rust(make, capfd):
    # The last run of the second segment crosses the end of the frame.
    pixels = make.head(rows=104, columns=100)
    run = bytes([257 - 128, 7])
    first = run * (pixels.size // 128) + bytes([257 - pixels.size % 128, 7])
    second = run * (pixels.size // 128 + 1)
    stream = struct.pack("<16L", 2, 64, 64 + len(first), *[0] * 13) + first + second
    refusal = make.refusal(make.encapsulated([stream], uid.RLELossless, pixels))
    assert refusal.reason is RefusalReason.CORRUPT_PIXELS
    assert "PanicException" in refusal.detail
    capfd.readouterr()
