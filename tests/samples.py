"""Ticks for tests: a random market, and the real ticks where they are at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.ticks import NO_SEQ, NUMBERS, Ticks

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "data" / "ticks"
needs_real_ticks = pytest.mark.skipif(
    not REAL.exists(), reason="needs the real ticks of ../shared/data/ticks, which are absent"
)
CELLS = ("lstm", "gru")


def shipped(cell: str) -> Path:
    """A default model."""
    return ROOT / "models" / f"{cell}.onnx"


def random_ticks(n: int, streams: int = 5, seed: int = 0, partitions: int = 1) -> Ticks:
    """N ticks of a random-walk market with trades, quotes and gaps; stream k is in partition k % partitions."""
    rng = np.random.default_rng(seed)

    def cents(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(values * 100.0) / 100.0

    def lots(most: int) -> NDArray[np.float64]:
        return rng.integers(1, most, n).astype(np.float64) * 100.0

    which = np.minimum(rng.zipf(1.5, n) - 1, streams - 1)
    mid = 100.0 + np.cumsum(rng.standard_normal(n) * (rng.random(n) < 0.3)) * 0.01
    half = 0.01 * rng.integers(1, 4, n)
    trade = rng.random(n) < 0.5
    side = rng.choice([-1.0, 1.0], n)
    partition = (which % partitions).astype(np.int32)
    offset = np.zeros(n, np.int64)
    for p in range(partitions):
        offset[partition == p] = np.arange((partition == p).sum())
    return Ticks(
        partition=partition,
        offset=offset,
        stream=[f"S{k}" for k in which],
        ts=1_700_000_000_000_000_000 + np.cumsum(rng.exponential(2e6, n)).astype(np.int64),
        price=cents(mid + side * half * trade),
        size=np.where(trade, lots(20), 0.0),
        bid=cents(mid - half),
        ask=cents(mid + half),
        bid_size=lots(50),
        ask_size=lots(50),
        seq=np.full(n, NO_SEQ),
    )


def with_numbers(ticks: Ticks, at: int, **numbers: float) -> Ticks:
    """The ticks with some numbers of tick `at` replaced."""
    columns = {name: getattr(ticks, name).copy() for name in NUMBERS}
    for name, value in numbers.items():
        columns[name][at] = value
    return replace(ticks, **columns)


def every(ticks: Ticks, step: int) -> list[Ticks]:
    """The ticks cut into batches of `step`."""
    return [ticks.take(np.arange(i, min(i + step, len(ticks)))) for i in range(0, len(ticks), step)]
