"""Which ticks find their stream forgotten, by event time alone: one compiled recursion.

Every partition has a clock that starts at 1 and moves by what its streams report of their own time: a tick newer than its
stream's last one says that so much time has passed since then. Times of different streams are never compared, so feeds
of different years or with clocks that are wrong by hours share a partition and expire nothing. A report counts once the
stream's next newer tick confirms it: one wild timestamp, whose successors all are late, expires nobody either.

A stream is idle when the clock has moved by more than `idle` since its last tick of any kind. That depends on the ticks of
the partition and their order alone, and once true it stays true until the stream's next tick, which begins it anew: so
idle rows may be removed at any time without changing a score.
"""

from __future__ import annotations

import numba
import numpy as np

LIFE = np.dtype(
    [
        ("clock", "i8"),  # of the partition after this stream's last tick, in nanoseconds; 0: no tick yet
        ("owed", "i8"),  # time that the last tick reported and no other one has confirmed
        ("ts", "i8"),  # newest
    ]
)
NEVER = 2**61  # nanoseconds; no clock gets there


@numba.njit(cache=True, nogil=True)
def live(partition, rows, ts, life, clocks, idle, expired):  # type: ignore[no-untyped-def]
    """Move `life` (LIFE [R]) and `clocks` int64 [partitions] over N ticks; rows below 0 are skipped.

    `expired` bool [N] becomes true where the stream was idle and begins anew; returns whether any was.
    """
    found = False
    for i in range(rows.shape[0]):
        expired[i] = False
        if rows[i] < 0:
            continue
        m = life[rows[i]]
        clock = clocks[partition[i]]
        expired[i] = m.clock > 0 and clock - m.clock > idle
        if m.clock == 0 or expired[i]:
            m.owed = 0
            m.ts = ts[i]
            found = found or expired[i]
        elif ts[i] > m.ts:
            clock = min(max(clock, m.clock + m.owed), NEVER)
            m.owed = min(ts[i] - m.ts, idle + 1, NEVER)
            m.ts = ts[i]
        elif ts[i] < m.ts:
            m.owed = 0
        m.clock = clock
        clocks[partition[i]] = clock
    return found
