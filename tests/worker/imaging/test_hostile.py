"""Files made to hurt: each costs bounded memory and time, and is refused with a code.

All of them go through one worker-like process, as they would in life; what it took in all is what is measured.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from pydicom import uid

from slicewise.db.reasons import RefusalReason as Reason

MAX_SECONDS = 20
MAX_KILOBYTES = 1_500_000

# One line of JSON a file: its name, what became of it, how long it took, and the most memory held so far.
READER = """
import json, sys, time
from pathlib import Path
from slicewise.worker.pipeline import prepare

def peak():
    # Not ru_maxrss: it outlives exec, and so counts what pytest itself had held.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

for path in sys.argv[1:]:
    started = time.monotonic()
    prepared = prepare(Path(path))
    first = prepared.refusal or next((f for f in prepared.frames if not hasattr(f, "shape")), None)
    print(json.dumps({
        "name": Path(path).name, "reason": first and first.reason, "detail": first and first.detail,
        "seconds": time.monotonic() - started, "kilobytes": peak(),
    }), flush=True)
"""

EXPLICIT, IMPLICIT = uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian
HEAD = {"rows": 104, "columns": 100}
CASES = {}


def case(name, *reasons):
    """Register a maker of a file, and the codes it may be refused by; none: it may pass."""

    def register(maker):
        CASES[name] = (maker, set(reasons))
        return maker

    return register


def element(group, number, value=b"", *, length=None, vr=None):
    """A data element, implicit without a VR."""
    length = len(value) if length is None else length
    tag = struct.pack("<HH", group, number)
    if vr is None:
        return tag + struct.pack("<L", length) + value
    if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"}:
        return tag + vr + struct.pack("<HL", 0, length) + value
    return tag + vr + struct.pack("<H", length) + value


def header_of(make, syntax=IMPLICIT, **elements):
    """A Part 10 file up to where its pixel data begins."""
    full = make.native(make.head(**HEAD), syntax, **elements)
    return full[: full.rindex(b"\xe0\x7f\x10\x00")]


def with_pixels(make, value, syntax, *, length=0xFFFFFFFF, **elements):
    """A compressed file with any bytes as its pixel data."""
    head = header_of(make, EXPLICIT, **elements)
    start = make.part10(b"", EXPLICIT)
    assert head.startswith(start)
    return make.part10(head[len(start) :], syntax) + element(0x7FE0, 0x0010, value, length=length, vr=b"OB")


ITEM = b"\xfe\xff\x00\xe0"
END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def items(*values):
    return b"".join(ITEM + struct.pack("<L", len(value)) + value for value in values)


# Bombs: small files that unpack to much.


@case("deflate bomb", Reason.TOO_LARGE)
def _(make):
    return make.deflated_part10(header_of(make, EXPLICIT)[132:] + b"\0" * (300 * 2**20))


@case("deflate bomb of elements", Reason.TOO_LARGE, Reason.UNREADABLE)
def _(make):
    return make.deflated_part10(element(8, 5, b"ISO_IR 100", vr=b"CS") + b"\x09\0\x10\0UN\0\0\0\0\0\0" * 4_000_000)


@case("deflated within the limit", Reason.BLANK)
def _(make):
    # 190 MB of pixels from a file of 200 KB: allowed, so it is the most that a file of this kind takes.
    head = make.native(np.zeros((1, 256, 256), np.uint16)[0], meta=False, NumberOfFrames=1500)
    head = head[: head.rindex(b"\xe0\x7f\x10\x00")]
    return make.deflated_part10(head + element(0x7FE0, 0x0010, b"\0" * (1500 * 256 * 256 * 2), vr=b"OW"))


@case("deflated garbage", Reason.UNREADABLE)
def _(make):
    return make.part10(b"\xff" * 1000, uid.DeflatedExplicitVRLittleEndian)


@case("deflated and cut off", Reason.TRUNCATED_PIXELS, Reason.UNREADABLE)
def _(make):
    return make.deflated(make.head(**HEAD))[:-3000]


@case("png of text bombs", Reason.UNREADABLE, Reason.CORRUPT_PIXELS)
def _(make):
    body = b"Comment\0\0" + zlib.compress(b"\0" * (50 * 2**20))
    return png_with(make, *[(b"zTXt", body)] * 50)


@case("png of a colour profile bomb")
def _(make):
    return png_with(make, (b"iCCP", b"ICC\0\0" + zlib.compress(b"\0" * (80 * 2**20), 1)))


@case("png of 100,000 texts", Reason.UNREADABLE, Reason.CORRUPT_PIXELS)
def _(make):
    return png_with(make, *[(b"tEXt", b"Comment\0" + b"x" * 1000)] * 100_000)


@case("png of the largest size", Reason.BLANK)
def _(make):
    rows = b"\0" + b"\0" * (4096 * 8)
    return png_with(make, shape=(4096, 4096, 16, 6), data=zlib.compress(rows * 4096, 1))


@case("png with too little data", Reason.TRUNCATED_PIXELS, Reason.CORRUPT_PIXELS)
def _(make):
    return png_with(make, shape=(4096, 4096, 16, 6), data=zlib.compress(b"\0" * 1000))


def png_with(make, *chunks, shape=None, data=None):
    plain = make.picture(make.eight_bits(**HEAD))
    if shape:
        rows, columns, bits, colour = shape
        head = struct.pack(">LLBBBBB", columns, rows, bits, colour, 0, 0, 0)
        return plain[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", data or b"") + chunk(b"IEND", b"")
    return plain[:33] + b"".join(chunk(*one) for one in chunks) + plain[33:]


def chunk(kind, body):
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


@case("jpeg of 5,000 scans", Reason.TOO_LARGE)
def _(make):
    data = make.picture(np.zeros((4000, 4000), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 5000 + b"\xff\xd9"


@case("jpeg of as many scans as are read", Reason.BLANK, Reason.CORRUPT_PIXELS)
def _(make):
    data = make.picture(np.zeros((4000, 4000), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (64 - data.count(b"\xff\xda")) + b"\xff\xd9"


# Sizes that lie.


@case("native 65535 x 65535", Reason.TOO_LARGE)
def _(make):
    return make.native(make.head(**HEAD), Rows=65535, Columns=65535)


@case("20,000 rle frames", Reason.TOO_LARGE)
def _(make):
    return make.compressed(make.head(**HEAD), uid.RLELossless, NumberOfFrames=20_000)


@case("8,000 frames", Reason.TOO_LARGE)
def _(make):
    return make.native(make.head(**HEAD), NumberOfFrames=8000)


@case("2,000 frames of 4096 x 4096", Reason.TOO_LARGE)
def _(make):
    return make.native(make.head(**HEAD), NumberOfFrames=2000, Rows=4096, Columns=4096)


@case("2,000 frames that are not there", Reason.TRUNCATED_PIXELS)
def _(make):
    return make.native(make.head(**HEAD), NumberOfFrames=2000)


@case("rows understated", Reason.CORRUPT_PIXELS)
def _(make):
    return make.native(make.head(rows=256, columns=200), Rows=128)


@case("rows overstated", Reason.TRUNCATED_PIXELS)
def _(make):
    return make.native(make.head(**HEAD), Rows=200)


@case("an odd number of bytes", Reason.TRUNCATED_PIXELS)
def _(make):
    return make.native(make.head(**HEAD))[:-1]


def j2k_with(make, offset, number, width=4):
    stream = bytearray(make.codestream(make.head(**HEAD), uid.JPEG2000Lossless))
    stream[offset : offset + width] = number.to_bytes(width, "big")
    return bytes(stream)


@case("jpeg 2000 of 65535 x 65535", Reason.CORRUPT_PIXELS, Reason.TOO_LARGE)
def _(make):
    stream = j2k_with(make, 8, 65535)
    stream = stream[:12] + (65535).to_bytes(4, "big") + stream[16:]
    return make.encapsulated([stream], uid.JPEG2000Lossless, make.head(**HEAD))


@case("jpeg 2000 of 65535 x 65535 in the second frame", Reason.CORRUPT_PIXELS, Reason.TOO_LARGE)
def _(make):
    streams = [j2k_with(make, 8, 100), j2k_with(make, 8, 2**31)]
    return make.encapsulated(streams, uid.JPEG2000Lossless, np.stack([make.head(**HEAD)] * 2), frames=2)


@case("jpeg 2000 of 16,384 components", Reason.CORRUPT_PIXELS)
def _(make):
    return make.encapsulated([j2k_with(make, 40, 16384, 2)], uid.JPEG2000Lossless, make.head(**HEAD))


@case("jpeg 2000 of no components", Reason.CORRUPT_PIXELS)
def _(make):
    return make.encapsulated([j2k_with(make, 40, 0, 2)], uid.JPEG2000Lossless, make.head(**HEAD))


@case("jpeg 2000 of 10,400 tiles", Reason.TOO_LARGE)
def _(make):
    stream = j2k_with(make, 24, 1)
    stream = stream[:28] + (1).to_bytes(4, "big") + stream[32:]
    return make.encapsulated([stream], uid.JPEG2000Lossless, make.head(**HEAD))


@case("jpeg 2000 of no tiles", Reason.CORRUPT_PIXELS)
def _(make):
    return make.encapsulated([j2k_with(make, 24, 0)], uid.JPEG2000Lossless, make.head(**HEAD))


@case("jpeg 2000 of the largest size and the data of a small one")
def _(make):
    stream = j2k_with(make, 8, 4096)
    for offset in (12, 24, 28):
        stream = stream[:offset] + (4096).to_bytes(4, "big") + stream[offset + 4 :]
    return make.encapsulated([stream], uid.JPEG2000Lossless, make.head(**HEAD), Rows=4096, Columns=4096)


@case("jpeg lossless of 65500 x 65500", Reason.CORRUPT_PIXELS)
def _(make):
    stream = make.codestream(make.head(**HEAD), uid.JPEGLosslessSV1)
    at = stream.index(b"\xff\xc3") + 5
    stream = stream[:at] + struct.pack(">HH", 65500, 65500) + stream[at + 4 :]
    return make.encapsulated([stream], uid.JPEGLosslessSV1, make.head(**HEAD))


@case("jpeg of 65500 x 65500", Reason.TOO_LARGE)
def _(make):
    data = make.picture(make.eight_bits(**HEAD), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


@case("jpeg of two sizes", Reason.CORRUPT_PIXELS)
def _(make):
    stream = make.codestream(make.eight_bits(**HEAD), uid.JPEGBaseline8Bit)
    at = stream.index(b"\xff\xc0")
    size = stream[at : at + 13]
    second = size[:5] + struct.pack(">HH", 65500, 65500) + size[9:]
    return make.encapsulated(
        [stream[: at + 13] + second + stream[at + 13 :]], uid.JPEGBaseline8Bit, make.eight_bits(**HEAD)
    )


@case("png of 2147483647 x 2147483647", Reason.TOO_LARGE, Reason.UNREADABLE)
def _(make):
    return png_with(make, shape=(2**31 - 1, 2**31 - 1, 8, 0))


@case("png of 20000 x 20000", Reason.TOO_LARGE)
def _(make):
    return png_with(make, shape=(20_000, 20_000, 8, 0))


@case("png of 0 x 0", Reason.UNREADABLE, Reason.CORRUPT_PIXELS, Reason.TOO_SMALL)
def _(make):
    return png_with(make, shape=(0, 0, 8, 0))


# Headers that cost more to parse than they look.


@case("sequences 5,000 deep", Reason.UNREADABLE)
def _(make):
    deep = element(8, 0x1115, length=0xFFFFFFFF) + ITEM + b"\xff\xff\xff\xff"
    return make.part10(element(8, 5, b"ISO_IR 100") + deep * 5000, IMPLICIT)


@case("sequences 5,000 deep, explicit and of stated length", Reason.UNREADABLE, Reason.NOT_AN_IMAGE)
def _(make):
    inner = b""
    for _ in range(5000):
        inner = element(0x5200, 0x9229, items(inner), vr=b"SQ")
    return make.part10(inner, EXPLICIT)


@case("a million items", Reason.TOO_LARGE)
def _(make):
    sequence = element(0x0008, 0x1115, length=0xFFFFFFFF) + items(b"") * 1_000_000 + END
    return make.part10(sequence + header_of(make)[len(make.part10(b"", IMPLICIT)) :], IMPLICIT)


@case("a million functional groups", Reason.TOO_LARGE)
def _(make):
    sequence = element(0x5200, 0x9230, items(b"") * 1_000_000)
    return header_of(make) + sequence + element(0x7FE0, 0x0010, make.head(**HEAD).tobytes())


@case("a million elements", Reason.TOO_LARGE)
def _(make):
    # Group, element, and a length of 0 in two halves.
    numbers = np.arange(1_000_000)
    private = np.stack([9 + 2 * (numbers >> 15), 0x1000 + numbers % 2**15, 0 * numbers, 0 * numbers], axis=1)
    return make.part10(private.astype("<u2").tobytes(), IMPLICIT)


@case("a million character sets", Reason.TOO_LARGE)
def _(make):
    return make.part10(element(8, 5, b"\\" * 2_000_000) + element(8, 0x60, b"MR"), IMPLICIT)


@case("a million windows", Reason.TOO_LARGE)
def _(make):
    windows = element(0x28, 0x1050, b"5\\" * 1_000_000) + element(0x28, 0x1051, b"9\\" * 1_000_000)
    return header_of(make) + windows + element(0x7FE0, 0x0010, make.head(**HEAD).tobytes())


@case("100,000 windows")
def _(make):
    windows = element(0x28, 0x1050, b"5\\" * 100_000) + element(0x28, 0x1051, b"9\\" * 100_000)
    return header_of(make) + windows + element(0x7FE0, 0x0010, make.head(**HEAD).tobytes())


@case("a header of 20 MB", Reason.TOO_LARGE)
def _(make):
    return header_of(make) + element(0x29, 0x1010, b"\1" * (20 * 2**20)) + element(0x7FE0, 0x0010, b"\0" * 100)


@case("a description of 10 MB")
def _(make):
    data = header_of(make, SeriesDescription="")
    text = element(8, 0x103E, b"3 " * (5 * 2**20))
    return data + text + element(0x7FE0, 0x0010, make.head(**HEAD).tobytes())


@case("a length past the end", Reason.UNREADABLE)
def _(make):
    return header_of(make) + element(0x29, 0x1010, b"abc", length=0xFFFFFFFE)


@case("a length past the end, explicit", Reason.UNREADABLE)
def _(make):
    return header_of(make, EXPLICIT) + element(0x29, 0x1010, b"abc", length=0xFFFFFFFE, vr=b"UN")


@case("an undefined length without end", Reason.UNREADABLE, Reason.NOT_AN_IMAGE)
def _(make):
    return header_of(make, EXPLICIT) + element(0x29, 0x1010, b"abc" * 1000, length=0xFFFFFFFF, vr=b"OB")


@case("pixel data past the end", Reason.TRUNCATED_PIXELS)
def _(make):
    return header_of(make) + element(0x7FE0, 0x0010, b"abc", length=0xFFFFFFFE)


@case("only private elements", Reason.NOT_AN_IMAGE)
def _(make):
    return make.part10(element(9, 0x10, b"ACME", vr=b"LO") + element(9, 0x1001, b"x " * 50, vr=b"LO"), EXPLICIT)


@case("nothing behind the file meta information", Reason.UNREADABLE)
def _(make):
    return make.part10(b"", EXPLICIT)


# Compressed pixel data that does not hold together.


@case("a fragment past the end", Reason.TRUNCATED_PIXELS)
def _(make):
    return with_pixels(make, items(b"") + ITEM + b"\xfe\xff\xff\xff" + b"x" * 100, uid.RLELossless)


@case("a fragment of undefined length", Reason.TRUNCATED_PIXELS)
def _(make):
    return with_pixels(make, items(b"") + ITEM + b"\xff\xff\xff\xff" + b"x" * 100 + END, uid.RLELossless)


@case("a million fragments", Reason.TOO_LARGE)
def _(make):
    return with_pixels(make, items(b"") + items(b"") * 1_000_000 + END, uid.RLELossless)


@case("no fragments", Reason.TRUNCATED_PIXELS)
def _(make):
    return with_pixels(make, items(b"") + END, uid.RLELossless)


@case("only empty fragments", Reason.TRUNCATED_PIXELS)
def _(make):
    return with_pixels(make, items(b"", b"", b"") + END, uid.RLELossless)


@case("no offset table at all", Reason.TRUNCATED_PIXELS)
def _(make):
    return with_pixels(make, items(make.codestream(make.head(**HEAD), uid.RLELossless)) + END, uid.RLELossless)


@case("nothing where fragments should be", Reason.TRUNCATED_PIXELS, Reason.CORRUPT_PIXELS)
def _(make):
    return with_pixels(make, b"", uid.RLELossless)


@case("no fragments but text", Reason.CORRUPT_PIXELS)
def _(make):
    return with_pixels(make, b"lorem ipsum " * 100, uid.RLELossless)


@case("fewer fragments than frames", Reason.TRUNCATED_PIXELS)
def _(make):
    return make.compressed(make.head(**HEAD), uid.JPEGLSLossless, NumberOfFrames=3)


@case("more pictures than frames")
def _(make):
    stream = make.codestream(make.head(**HEAD), uid.JPEGLSLossless)
    return make.encapsulated([stream] * 3, uid.JPEGLSLossless, make.head(**HEAD))


def rle_with(make, words):
    stream = make.codestream(make.head(**HEAD), uid.RLELossless)
    return make.encapsulated([struct.pack("<16L", *words) + stream[64:]], uid.RLELossless, make.head(**HEAD))


@case("rle of 15 segments", Reason.CORRUPT_PIXELS)
def _(make):
    return rle_with(make, [15, 64] + [70] * 14)


@case("rle of 4 billion segments", Reason.CORRUPT_PIXELS)
def _(make):
    return rle_with(make, [0xFFFFFFFF, 64] + [70] * 14)


@case("rle segments past the end", Reason.TRUNCATED_PIXELS)
def _(make):
    return rle_with(make, [2, 64, 0xFFFFFFF0] + [0] * 13)


@case("rle segments backwards", Reason.CORRUPT_PIXELS)
def _(make):
    return rle_with(make, [2, 64, 8] + [0] * 13)


@case("rle that unpacks to more than the frame", Reason.CORRUPT_PIXELS)
def _(make):
    segment = b"\x81\xff" * 2_000_000
    words = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13)
    return make.encapsulated([words + segment + segment], uid.RLELossless, make.head(**HEAD))


# Values that cannot be.


for number, text in enumerate([b"1A", b"-5", b"99999999999999999999", b"1\\2", b"1e5", b"nan"]):
    CASES[f"number of frames {number}"] = (
        lambda make, text=text: make.native(make.head(**HEAD), NumberOfFrames=text),
        {Reason.UNREADABLE, Reason.TOO_LARGE},
    )

for bits in (0, 1, 7, 12, 24, 64, 65535):
    CASES[f"{bits} bits allocated"] = (
        lambda make, bits=bits: make.native(make.head(**HEAD), BitsAllocated=bits),
        {Reason.CORRUPT_PIXELS, Reason.TRUNCATED_PIXELS},
    )

for samples in (2, 4, 5, 65535):
    CASES[f"{samples} samples a pixel"] = (
        lambda make, samples=samples: make.native(make.head(**HEAD), SamplesPerPixel=samples),
        {Reason.CORRUPT_PIXELS},
    )

for name, value in {
    "Rows": None,
    "Columns": None,
    "PixelRepresentation": 7,
    "BitsStored": 40,
    "PhotometricInterpretation": None,
    "BitsAllocated": None,
}.items():
    CASES[f"{name} of {value!r}"] = (
        lambda make, name=name, value=value: make.native(make.head(**HEAD), **{name: value}),
        {Reason.CORRUPT_PIXELS, Reason.UNREADABLE},
    )


@case("no rows", Reason.CORRUPT_PIXELS)
def _(make):
    return make.native(make.head(**HEAD), Rows=0)


# No format at all.


for name, magic in {
    "dicm": b"\0" * 128 + b"DICM",
    "meta": b"\x02\0\x10\0UI",
    "data set": b"\x08\0\x05\0CS",
    "implicit": b"\x08\0\x05\0",
    "big endian": b"\0\x08\0\x05CS",
    "jpeg": b"\xff\xd8\xff\xe0",
    "jpeg frame": b"\xff\xd8\xff\xc0",
    "png": b"\x89PNG\r\n\x1a\n",
    "png chunk": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "none": b"",
}.items():
    for seed in range(3):
        CASES[f"random bytes as {name} {seed}"] = (
            lambda make, magic=magic, seed=seed: magic + np.random.default_rng(seed).bytes(50_000),
            {Reason.UNREADABLE, Reason.NOT_AN_IMAGE, Reason.TOO_LARGE, Reason.TOO_SMALL},
        )

for name, data in {
    "one byte": b"\0",
    "magic only": b"\0" * 128 + b"DICM",
    "soi": b"\xff\xd8\xff",
    "group": b"\x08\0",
}.items():
    CASES[name] = (lambda make, data=data: data, {Reason.UNREADABLE})


@pytest.fixture(scope="module")
def outcomes(make, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    files = [folder / name.replace("/", "-") for name in CASES]
    for path, (maker, _reasons) in zip(files, CASES.values(), strict=True):
        path.write_bytes(maker(make))
    huge = folder / "a file of 600 MB"
    with huge.open("wb") as file:
        file.truncate(600 * 2**20)
    child = subprocess.run(
        [sys.executable, "-c", READER, *map(str, [*files, huge])],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"died after {[line['name'] for line in lines][-1:]}: {child.stderr[-2000:]}"
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_at_a_bounded_cost(outcomes, name):
    outcome = outcomes[name.replace("/", "-")]
    reasons = CASES[name][1]
    assert not reasons or outcome["reason"] in reasons, outcome
    assert outcome["seconds"] < MAX_SECONDS, outcome
    assert outcome["kilobytes"] < MAX_KILOBYTES, outcome


def test_a_file_beyond_the_limit_is_not_even_read(outcomes):
    assert outcomes["a file of 600 MB"]["reason"] == Reason.TOO_LARGE
    assert outcomes["a file of 600 MB"]["seconds"] < 1
