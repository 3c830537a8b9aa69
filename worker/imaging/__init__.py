"""Bytes to `Slice` to raster: the only place that decodes, windows, crops or resizes."""
import io
import numpy as np
from PIL import Image
from slicewise.db.reasons import RefusalReason
from slicewise.worker.errors import Refused
from slicewise.worker.imaging.raster import SIZE, normalise, Featureless
def load(data):
    return [np.asarray(Image.open(io.BytesIO(data)).convert('L'))]
def to_raster(plane):
    try: return normalise(plane)
    except Featureless as e: raise Refused(RefusalReason.BLANK, str(e)) from None
