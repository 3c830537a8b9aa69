"""Bytes to `Slice` to raster: the only place that decodes, windows, crops or resizes.

Serving and training both come through here::

    scan = open_scan(data)              # header facts; or Refused: unreadable
    for slice in scan.slices():         # one frame at a time; or Refused: the whole file
        raster = to_raster(slice)       # (150, 150) uint8; or Refused, this frame only
"""

from slicewise.worker.imaging.raster import PREPROCESS_VERSION, SIZE, colour
from slicewise.worker.imaging.scan import Patient, Scan, Slice, load, open_scan, to_raster

PREPROCESS_VERSIONS = frozenset({PREPROCESS_VERSION})
"""Every preprocessing version that this worker can still produce."""

__all__ = [
    "PREPROCESS_VERSION",
    "PREPROCESS_VERSIONS",
    "SIZE",
    "Patient",
    "Scan",
    "Slice",
    "colour",
    "load",
    "open_scan",
    "to_raster",
]
