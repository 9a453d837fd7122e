"""What the model alone costs, against the arithmetic it can't avoid: multiplications over the measured speed of sgemm.

python -m benchmarks.arithmetic

A tick multiplies each weight of the network once. The floor is the time that numpy's BLAS, on one thread, takes for as many
multiplications in large square matrices; beside it stands what it takes for those very matrices, the streams of a block as
rows, without tanh, sigmoid, and the additions between.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.tables import Row, Size, Told, markdown
from service.autoencoder import find, load
from service.features import F

SHAPES = ((1, 1), (256, 1), (1024, 1), (4096, 1), (1, 16), (1, 256), (1, 1024))  # streams and steps of a block
SQUARE = 512
MEASURE_S = 0.1
BEST_OF = 5

Matrix = NDArray[np.float32]


def arithmetic(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each cell and shape of a block."""
    rng = np.random.default_rng(1)
    rows: list[Row] = []
    with threadpool_limits(1):
        a, b, out = (rng.standard_normal((SQUARE, SQUARE)).astype(np.float32) for _ in range(3))
        speed = 2 * SQUARE**3 / seconds(lambda: np.matmul(a, b, out=out))
        for cell in size.cells:
            told(f"the {cell} alone", len(rows), len(SHAPES) * len(size.cells))
            rows += [_row(cell, B, T, speed, rng) for B, T in SHAPES]
    return rows


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call, the best of some."""
    call()
    best = float("inf")
    for _ in range(BEST_OF):
        done, until, cpu = 0, time.perf_counter() + MEASURE_S, time.process_time()
        while time.perf_counter() < until or not done:
            call()
            done += 1
        best = min(best, (time.process_time() - cpu) / done)
    return best


def weights(cell: str) -> list[Matrix]:
    """The weight matrices [inputs, outputs] of the network of a shipped model."""
    graph = onnx.load(find(cell)).graph
    found = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith((".W", ".R"))]
    return [np.ascontiguousarray(w[0].T if w.ndim == 3 else w) for w in found]


def _row(cell: str, B: int, T: int, speed: float, rng: np.random.Generator) -> Row:
    matrices = weights(cell)
    inputs = [(rng.standard_normal((B, w.shape[0])).astype(np.float32), w) for w in matrices]

    def multiply() -> None:
        for x, w in inputs:
            np.matmul(x, w)

    model = load(find(cell))
    block = {
        "features": rng.standard_normal((T, B, F)).astype(np.float32),
        "state": np.zeros((B, model.recurrent), np.float32),
    }
    cost = seconds(lambda: model.session.run(None, block)) / (B * T)
    flops = 2 * sum(w.size for w in matrices)
    floor = flops / speed
    return {
        "cell": cell,
        "streams": B,
        "steps": T,
        "of the floor": cost / floor,
        "of the same matrices": cost * B / seconds(multiply),
        "us per tick": cost * 1e6,
        "us, floor": floor * 1e6,
        "FLOP per tick": flops,
        "sgemm, GFLOP/s": speed / 1e9,
    }


if __name__ == "__main__":
    print(markdown(arithmetic("", Size(0, 0, 0, 0, ("gru", "lstm"), ()), lambda what, done, of: None)))
