"""Block planning: which ticks are scored together in one onnxruntime call. The project's core algorithm.

A stream's ticks must pass through the recurrent cells in order; different streams are independent. A call scores a block
of T steps of B streams and costs about `a + T * (s + B * c)`: `a` for the call, `s` for each step, `c` for the arithmetic of
one tick. With c of 0.5 us, s of 1.5 us and a of 10 us (LSTM or GRU, hidden 32), many ticks a step and few calls are what pays.

The plan: write each stream's number of ticks in the batch in binary. For every power of two 2^k, from the largest down,
the streams that have this bit set form one block [2^k, B]. Every stream's ticks are cut into runs of falling length,
in order, without padding, and a batch whose busiest stream has n ticks takes at most log2(n) + 1 calls: 13 for a
batch of 5,000 ticks, whether they belong to one stream, to a Zipf mixture, or to 5,000 streams. Where all streams that are
left have equally many ticks, one block takes them all.

The sum of the steps of all blocks is below 2n, against n for the wave-by-wave plan, which needs n calls.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

MAX_STEPS = 1024  # bounds the memory of one block; a longer run is cut in several


class Block(NamedTuple):
    """The next T * B ticks of the plan, time downwards: T steps of the B streams whose state stands at `rows` int64 [B]."""

    steps: int
    rows: NDArray[np.int64]


class Plan(NamedTuple):
    """`order` int64 [N] lists the ticks of a batch block by block; `blocks` are to be scored one after the other."""

    order: NDArray[np.int64]
    blocks: list[Block]


def plan(rows: NDArray[np.int64]) -> Plan:
    """How to score a batch. `rows` int64 [N] is the state row of each tick, in log order."""
    n = len(rows)
    if n < 2:
        return Plan(np.zeros(n, np.int64), [Block(1, rows)] * n)
    grouped = np.argsort(rows, kind="stable")
    order, owners = np.empty(n, np.int64), np.empty(n, np.int64)
    shapes = np.empty((n // MAX_STEPS + MAX_STEPS.bit_length(), 2), np.int64)
    calls = _cut(rows, grouped, edges(rows[grouped]), order, owners, shapes)
    blocks, first = [], 0
    for steps, streams in shapes[:calls].tolist():
        blocks.append(Block(steps, owners[first : first + streams]))
        first += streams
    return Plan(order, blocks)


@numba.njit(cache=True, nogil=True)
def edges(numbers):  # type: ignore[no-untyped-def]
    """Where the runs of equal numbers begin among N, and N: int64 [runs + 1]."""
    n = numbers.shape[0]
    found = np.empty(n + 1, np.int64)
    runs = 0
    for i in range(n):
        if i == 0 or numbers[i] != numbers[i - 1]:
            found[runs] = i
            runs += 1
    found[runs] = n
    return found[: runs + 1]


@numba.njit(cache=True, nogil=True)
def _cut(rows, grouped, bounds, order, owners, shapes):  # type: ignore[no-untyped-def]
    """Fill the plan's order, the rows of its blocks one behind the other, and their (T, B); returns how many blocks there are.

    `grouped` int64 [N] lists the ticks stream by stream; `bounds` int64 [streams + 1] is where those of each begin.
    """
    start, count = bounds[:-1].copy(), np.diff(bounds)  # of the ticks that are left of each stream
    left = len(start)
    chosen = np.empty(left, np.int64)
    size = MAX_STEPS
    calls = ticks = streams = 0
    while left:
        most, least = count[:left].max(), count[:left].min()
        while size > most:
            size >>= 1
        steps = most if most == least and most <= MAX_STEPS else size
        b = 0
        for j in range(left):
            if count[j] >= steps:
                chosen[b] = j
                b += 1
        for t in range(steps):
            for j in chosen[:b]:
                order[ticks] = grouped[start[j] + t]
                ticks += 1
        for j in chosen[:b]:
            owners[streams] = rows[grouped[start[j]]]
            streams += 1
            start[j] += steps
            count[j] -= steps
        shapes[calls] = steps, b
        calls += 1
        some = np.flatnonzero(count[:left])
        left = len(some)
        start[:left], count[:left] = start[some], count[some]
    return calls
