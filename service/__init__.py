"""tickwatch: says, within milliseconds, which live ticks are not normal, and why."""

import os

__version__ = "0.1.0"

# onnxruntime 1.29 and later sends what it runs to its makers unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
