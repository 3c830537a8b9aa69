"""Every code by which imaging refuses, raised by one plain example of it; and the door itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging import Slice, limits, load, open_scan, to_raster

EXAMPLES = {
    RefusalReason.EMPTY_FILE: lambda make: b"",
    RefusalReason.UNREADABLE: lambda make: b"a text file named .dcm",
    RefusalReason.NOT_AN_IMAGE: lambda make: make.native(make.head(), Modality="SR").partition(b"\xe0\x7f\x10\x00")[0],
    RefusalReason.UNSUPPORTED_TRANSFER_SYNTAX: lambda make: make.native(make.head(), uid.MPEG2MPML),
    RefusalReason.TRUNCATED_PIXELS: lambda make: make.native(make.head())[:-5000],
    RefusalReason.CORRUPT_PIXELS: lambda make: make.native(make.head(), BitsAllocated=24),
    RefusalReason.TOO_LARGE: lambda make: make.native(make.head(), Rows=8192, Columns=8192),
    RefusalReason.TOO_SMALL: lambda make: make.native(make.head(rows=64, columns=64)),
    RefusalReason.WRONG_MODALITY: lambda make: make.native(make.head(), Modality="CT"),
    RefusalReason.NOT_BRAIN: lambda make: make.native(make.head(), BodyPartExamined="KNEE"),
    RefusalReason.LOCALISER: lambda make: make.native(make.head(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    RefusalReason.MOSAIC: lambda make: make.native(make.head(), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
    RefusalReason.DERIVED_MAP: lambda make: make.native(make.head(), ImageType=["DERIVED", "PRIMARY", "M", "ADC"]),
    RefusalReason.COLOUR: lambda make: make.native(
        np.stack([make.eight_bits(), make.eight_bits() // 9, make.eight_bits()], axis=-1)
    ),
    RefusalReason.BLANK: lambda make: make.native(np.zeros((128, 128), np.uint16)),
    RefusalReason.NO_HEAD: lambda make: make.native(np.pad(np.full((9, 120), 500, np.uint16), 60)),
}


@pytest.mark.parametrize("reason", EXAMPLES)
def test_each_reason(make, reason):
    refusal = make.refusal(EXAMPLES[reason](make))
    assert refusal.reason is reason
    assert len(refusal.detail) > 10
    assert str(refusal) == f"{reason.value}: {refusal.detail}"


def test_every_reason_has_its_example():
    # A file that kills its process cannot say so itself, and what is unfamiliar only a network can.
    assert set(EXAMPLES) == set(RefusalReason) - {RefusalReason.KILLED_THE_WORKER, RefusalReason.UNFAMILIAR}


def test_a_file_beyond_the_limit(monkeypatch, make):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 1000)
    assert make.reason(make.native(make.head())) is RefusalReason.TOO_LARGE


def test_one_blank_frame_does_not_refuse_its_neighbours(make):
    pixels = np.stack([make.head(), np.zeros((160, 144), np.uint16), make.head(top=500)])
    decoded = load(make.native(pixels, frames=3))
    assert to_raster(decoded[0]).any()
    assert to_raster(decoded[2]).any()
    with pytest.raises(Refused) as refused:
        to_raster(decoded[1])
    assert refused.value.reason is RefusalReason.BLANK


@pytest.mark.parametrize(
    ("data", "opened"),
    [
        pytest.param(lambda make: make.native(make.head(), Modality="CT"), True, id="refused by its header"),
        pytest.param(lambda make: make.native(make.head())[:-1000], True, id="refused by its pixels"),
        pytest.param(lambda make: b"\xff\xd8\xff rubbish", False, id="not read"),
    ],
)
def test_a_file_that_can_be_read_has_header_facts_though_it_is_refused(make, data, opened):
    if opened:
        scan = open_scan(data(make))
        assert scan.header.rows == 160
        with pytest.raises(Refused):
            next(scan.slices())
    else:
        with pytest.raises(Refused):
            open_scan(data(make))


def test_slices_can_be_asked_for_again(make):
    for data in (make.native(make.head()), make.picture(make.head()), make.compressed(make.head(), uid.RLELossless)):
        scan = open_scan(data)
        first, second = next(scan.slices()), next(scan.slices())
        np.testing.assert_array_equal(first.pixels, second.pixels)


def test_a_slice_of_ones_own(make):
    assert to_raster(Slice(make.head())).shape == (150, 150)


def test_a_lack_of_memory_is_not_the_files_fault(make, monkeypatch):
    from slicewise.worker.imaging import greyscale

    def exhausted(*_args):
        raise MemoryError

    monkeypatch.setattr(greyscale, "_windowed", exhausted)
    with pytest.raises(MemoryError):
        load(make.native(make.head()))


def test_pictures_do_without_pydicom(make, tmp_path):
    (tmp_path / "head.png").write_bytes(make.picture(make.head()))
    code = (
        "import sys; from pathlib import Path; from slicewise.worker.imaging import load, to_raster;"
        f"to_raster(load(Path({str(tmp_path / 'head.png')!r}).read_bytes())[0]);"
        "sys.exit('pydicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
