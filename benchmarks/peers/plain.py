"""The detector as one would write it first, for the peers in Python: one tick a call of the model, five plain features.

The same as kafka-streams/src/main/java/Features.java and Model.java: the features are those five of the model's, each
standardised by the stream's running mean and variance, and the score is the mean squared error of the reconstruction. There is
no calibration, no reasons, no incidents, and nothing for late, repeated or unreadable ticks.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PLACES = (0, 1, 5, 7, 9)  # return, mid_return, gap, size, spread
MEMORY = 3 + 2 * len(PLACES)  # numbers: last ts, price and mid, then a mean and a variance for each feature
RATE = 1 / 500
THRESHOLD = 25.0  # of a score that is told when not all are

Numbers = NDArray[np.float32]


def features(tick: dict[str, Any], memory: list[float], inputs: int) -> Numbers:
    """Input of the model float32 [1, 1, inputs]; `memory` moves on in place."""
    bid, ask, price, before = tick["bid"], tick["ask"], tick["price"], memory[0]
    mid, size = 0.5 * (bid + ask), tick["size"]
    gap = math.log1p(max(0.0, tick["ts"] - before) / 1e3)
    found = (price - memory[1], mid - memory[2], gap, math.log(size) if size > 0 else math.nan, ask - bid)
    x = np.zeros((1, 1, inputs), np.float32)
    for j, value in enumerate(found):
        at = 3 + 2 * j
        away = value - memory[at] if before and math.isfinite(value) else 0.0
        variance = memory[at + 1]
        if variance > 0:
            x[0, 0, PLACES[j]] = max(-5.0, min(5.0, away / math.sqrt(variance)))
        memory[at] += RATE * away
        memory[at + 1] += RATE * (away * away - variance)
    memory[:3] = tick["ts"], price, mid
    return x


class Model:
    """A model file, which takes `inputs` features; `recurrent` float32 numbers are its state."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        x, state = self._session.get_inputs()
        self.inputs: int = x.shape[2]
        self.recurrent: int = state.shape[1]

    def step(self, x: Numbers, state: Numbers) -> tuple[float, Numbers]:
        """(mean squared error of the reconstruction, new state [1, recurrent])."""
        guess, after = self._session.run(None, {"features": x, "state": state})
        return float(np.square(x - guess).mean()), after
