"""The model bundle, and the session that runs it."""

import os

# From 1.29 on onnxruntime reports to its maker on Linux too (model names, hashes, errors; a device id in the user's
# cache), unless it is told not to before it is loaded. What runs here is nobody's business.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
