"""Block planning: which ticks are scored together in one onnxruntime call. The project's core algorithm.

A stream's ticks must pass through the recurrent cells in order; different streams are independent. A call scores a block
of T steps of B streams and costs about `a + T * (s + B * c)`: `a` for the call, `s` for each step, `c` for the arithmetic of
one tick. With c of 0.5 us, s of 1.5 us and a of 10 us (LSTM or GRU, hidden 32), many ticks a step and few calls are what pays.

The plan: write each stream's number of ticks in the batch in binary. For every power of two 2^k, from the largest down,
the streams that have this bit set form one block [2^k, B]. Every stream's ticks are cut into runs of falling length,
in order, without padding, and a batch whose busiest stream has n ticks takes at most log2(n) + 1 calls: 13 for a
batch of 5,000 ticks, whether they belong to one stream, to a Zipf mixture, or to 5,000 streams.

The sum of the steps of all blocks is below 2n, against n for the wave-by-wave plan, which needs n calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_STEPS = 1024  # bounds the memory of one block; a longer run is cut in several


@dataclass(frozen=True)
class Block:
    """`ticks` int64 [T, B] are indices into the batch, time downwards; `rows` int64 [B] the state rows of its streams."""

    ticks: NDArray[np.int64]
    rows: NDArray[np.int64]


def plan(rows: NDArray[np.int64]) -> list[Block]:
    """Blocks that cover a batch, to be scored in this order. `rows` int64 [N] is the state row of each tick, in log order."""
    if len(rows) < 2:
        return [Block(np.zeros((1, 1), np.int64), rows)] if len(rows) else []
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    start = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])  # of each stream's ticks in `order`
    count = np.concatenate([start[1:], [len(rows)]]) - start
    streams = ordered[start]
    blocks = []
    size = min(MAX_STEPS, 1 << int(count.max()).bit_length() - 1)
    while size:
        chosen = np.flatnonzero(count >= size)
        while len(chosen):
            at = start[chosen] + np.arange(size)[:, None]
            blocks.append(Block(order[at], streams[chosen]))
            start[chosen] += size
            count[chosen] -= size
            chosen = chosen[count[chosen] >= size]
        size >>= 1
    return blocks
