"""The passages of a stream: whether the last ticks came before, in their order, from a record of constant size."""

from __future__ import annotations

import numba
import numpy as np

PASSAGES = (96, 4)  # on record of a stream: sets, and how many of the latest each holds
APART = 8  # passages, at least, from one that is recorded to the next


@numba.njit(cache=True, inline="always")
def follow(m, mark):  # type: ignore[no-untyped-def]
    """Take in a tick's fingerprint (uint64); `m.replay` grows where the last eight come again, and fades over ~16 ticks."""
    m.replay = 15 / 16 * m.replay if m.replay > 1e-3 else 0.0
    short = np.uint32(mark >> np.uint64(32))
    if short != m.marks[1]:
        swings = short == m.marks[0]  # back to the one before the last: a quote may do so for hours
        m.marks[0] = m.marks[1]
        m.marks[1] = short
        if not swings:
            m.replay += _known(m, mark)


@numba.njit(cache=True, inline="always")
def _known(m, mark):  # type: ignore[no-untyped-def]
    """1 if the last eight ticks that count, in their order, are a passage on record, else 0.

    One passage in four is looked up. Which ones, their content decides, so that the same are chosen when they come again, as in
    content-defined chunking (gear hash: Xia et al. 2016, "FastCDC"): what is eight ticks back has been shifted out of the sum.
    Of these, one is recorded where APART have passed since the last: evenly, so that few replays fall between two. The record
    is a set-associative cache; of each set, what came or came again longest ago is replaced.
    """
    m.passage = (m.passage << np.uint64(8)) + (mark >> np.uint64(32))
    m.since += 1
    mixed = m.passage  # mixed by the finaliser of MurmurHash3, so that every bit hangs on all eight
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    if mixed >> np.uint64(62) != 0:
        return 0.0
    chosen = (mixed >> np.uint64(40)) % np.uint64(PASSAGES[0])
    high, low = m.passages[chosen], m.passages_low[chosen]  # 24 bits of each, so that hardly any match by chance
    tag, tag_low = np.uint16(mixed >> np.uint64(24)), np.uint8(mixed >> np.uint64(16))
    place, found = PASSAGES[1] - 1, 0.0
    for k in range(PASSAGES[1]):
        if high[k] == tag and low[k] == tag_low:
            place, found = k, 1.0
    if found > 0.0 or m.since >= APART:
        for k in range(place, 0, -1):
            high[k], low[k] = high[k - 1], low[k - 1]
        high[0], low[0] = tag, tag_low
        m.since = 0
    return found
