"""pydicom and its plugins quote values of the header in warnings and log lines, and these may be names: importing this silences them."""

from __future__ import annotations

import logging
import warnings

import pydicom

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"(pydicom|openjpeg|libjpeg)\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
