"""The session breaks of a stream: long pauses that begin and end at the times of day at which one of another day did.

Nights, lunch breaks and closing auctions come again each trading day, and a weekend begins when a night would and ends when one
would, so one day is enough to know them. The first night of a new stream is taken for one by its length. A feed that stops or
comes back at another time makes a pause like any other.
"""

from __future__ import annotations

from typing import Final

import numba

BREAKS: Final = 4  # on record of a stream: the longest pauses of its last days
HOUR: Final = 3_600_000_000_000  # nanoseconds
DAY: Final = 24 * HOUR
LEAST: Final = HOUR // 20  # of a pause that is recorded
UNUSUAL: Final = 14_000.0  # of it, in nanoseconds, over the usual gap in microseconds: one pause in a hundred is longer
NIGHT: Final = 6 * HOUR  # least of a pause that is taken for a break where none so long is on record
MOST_APART: Final = 5 * HOUR // 4  # of begin and end from another day's, or an eighth of the shorter of the two pauses
FORGOTTEN: Final = 8 * DAY  # after which a pause is no longer on record, and a stream not new


@numba.njit(cache=True, inline="always")
def _apart(one, other):  # type: ignore[no-untyped-def]
    """How far the times of day of two times are apart, around the clock."""
    forward = (one - other) % DAY
    return min(forward, DAY - forward)


@numba.njit(cache=True, inline="always")
def reopens(m, ts):  # type: ignore[no-untyped-def]
    """Whether the pause from the stream's newest tick `m.ts` to `ts` is one of its breaks; `m.breaks` keeps it in mind."""
    length = ts - m.ts
    if m.usual_gap == 0.0 or not max(LEAST, UNUSUAL * m.usual_gap) <= length < FORGOTTEN:
        return False
    usual, longest = False, 0
    place, shortest = -1, length
    for k in range(BREAKS):
        began, ended = m.breaks[k]
        kept = ended - began if 0 <= m.ts - ended < FORGOTTEN else 0
        longest = max(longest, kept)
        alike = length < NIGHT or kept >= NIGHT  # no lunch break lasts for a day and an hour
        apart = max(_apart(m.ts, began), _apart(ts, ended))
        if kept > 0 and alike and apart <= min(min(kept, length) // 8, MOST_APART):
            usual, place, shortest = True, k, 0
        elif kept < shortest:
            place, shortest = k, kept
    if place >= 0:
        m.breaks[place] = m.ts, ts
    return usual or (length >= NIGHT > longest and m.ts - m.first_ts < FORGOTTEN)
