"""Decoding beside itself: a worker's threads share every library underneath."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydicom import uid

from slicewise.worker.errors import Refused
from slicewise.worker.imaging import open_scan, to_raster


def outcome(data):
    try:
        return [to_raster(decoded).tobytes() for decoded in open_scan(data).slices()]
    except Refused as refused:
        return str(refused)


def test_eight_threads_agree_with_one(make):
    pixels = make.head(rows=128, columns=112)
    stack = np.stack([make.head(rows=128, columns=112, top=top) for top in (500, 1000)])
    files = [
        make.native(pixels),
        make.native(pixels, uid.ImplicitVRLittleEndian, WindowCenter=450, WindowWidth=900),
        make.deflated(pixels),
        *(
            make.compressed(stack, syntax, frames=2)
            for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1)
        ),
        make.picture(make.eight_bits(), "JPEG"),
        make.picture(pixels),
        make.native(pixels, Modality="CT"),
        make.compressed(pixels, uid.JPEG2000Lossless)[:-2000],
        b"rubbish",
    ]
    expected = [outcome(data) for data in files]
    # One slice in three files, one stack in four.
    assert expected[0] == expected[2] == expected[8]
    assert expected[3] == expected[4] == expected[5] == expected[6]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(6):
            assert list(pool.map(outcome, files * 4)) == expected * 4
