"""The grid of a field's values: how many decimals they have in a stream, and which value has more.

A price between two steps of its grid was mostly computed, averaged, or put through single precision. Where one in ten is, as
where trades at the middle are common, the grid is taken to be finer; where one in fifty is, the judge has got used to it.
"""

from __future__ import annotations

import math

import numba
import numpy as np

GRID = ("price", "size", "bid", "ask")  # fields whose values lie on a grid of so many decimals
MOST_DECIMALS = 9  # of such a field: in one with more, nothing is off the grid
FINER = 0.1  # EW share (over 4,096) of values with more decimals from which on they are the field's own
POWERS = 10.0 ** np.arange(MOST_DECIMALS + 1)


@numba.njit(cache=True, inline="always")
def _on_grid(value, decimals):  # type: ignore[no-untyped-def]
    scaled = abs(value) * POWERS[decimals]
    return abs(scaled - math.floor(scaled + 0.5)) <= 1e-14 * scaled  # some roundings of a double


@numba.njit(cache=True)
def _decimals(value):  # type: ignore[no-untyped-def]
    for decimals in range(MOST_DECIMALS + 1):
        if _on_grid(value, decimals):
            return decimals
    return MOST_DECIMALS + 1


@numba.njit(cache=True, inline="always")
def finer(m, j, value, young):  # type: ignore[no-untyped-def]
    """Whether a value of field GRID[j] has more decimals than usual; where many have, they tell how many are usual.

    `m` is the stream's row, whose `digits` and `finer` at j are changed; `young` is 1 over the number of its ticks.
    """
    if math.isnan(value) or value == 0.0:
        return False
    if m.digits[j] == 0:
        m.digits[j] = 1 + _decimals(value)
    if m.digits[j] > 1 + MOST_DECIMALS:
        return False
    more = not _on_grid(value, m.digits[j] - 1)
    m.finer[j] += max(young, 1 / 4096) * (more - m.finer[j])
    if m.finer[j] > FINER:
        m.digits[j] = 1 + _decimals(value)
        m.finer[j] = 0.0
    return more
