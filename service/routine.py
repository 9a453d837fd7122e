"""What a stream does at the same time of every day: a stir that comes again counts by what it exceeds that of the day before.

Auctions, fixings, the first and the last minutes of a session, a venue's own nightly jobs: strange each time, and no news from
the second day on. A record says between which times of day a stream stirred, by which features, and how high. What stirs
another feature, at another time or higher than that, is told as ever.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np

from service.breaks import DAY, FORGOTTEN, HOUR

ROUTINES: Final = 6  # records of a stream
LAST, BEFORE = 0, 1  # the day on which a record was last, today for one, and the one before that
WITHIN: Final = HOUR // 12  # nanoseconds by which a stir may be early or late
LONGEST: Final = HOUR  # of a stir that is recorded: what lasts longer has no time of day
ORDINARY: Final = 2.2  # score of what is as it was on another day: below the threshold of budgets up to 80
UNIQUE: Final = 3 * DAY // 2  # after which what never came again gives way to anything

FIELDS: Final[list[tuple[Any, ...]]] = [
    ("stir", "f4"),  # highest score of the present stir, 0 where there is none
    ("calm", "i4"),  # ticks since its last one
    ("stirred", "i8", (2,)),  # times of its first tick and its last
    ("stirred_by", "u4"),  # bits of the features that surprised most
    ("routine_by", "u4", (ROUTINES, 2)),  # the same of each record, on all its days up to this one
    ("routine_score", "f4", (ROUTINES, 2)),  # highest one, which falls by halves; 0 for no such day
    ("routines", "i8", (ROUTINES, 2, 2)),  # times of the first tick and the last of that day
]


@numba.njit(cache=True, inline="always")
def _alike(m, k, day, by, began, ended):  # type: ignore[no-untyped-def]
    """Whether record k was of one of these features, at these times of day, and is not forgotten."""
    first, last = m.routines[k, day]
    lasted, age = ended - began, began - first
    return (
        m.routine_by[k, day] & by
        and 0 <= age < FORGOTTEN
        and (age + lasted + WITHIN) % DAY <= lasted + last - first + 2 * WITHIN
    )


@numba.njit(cache=True, inline="always")
def beyond(m, ts, feature, score):  # type: ignore[no-untyped-def]
    """What is left of a score above ORDINARY where this feature is known to reach as much at this time of another day."""
    usual = ORDINARY
    for k in range(ROUTINES):
        day = BEFORE if ts - m.routines[k, LAST, 0] <= DAY // 2 else LAST  # what came today is not known yet
        if _alike(m, k, day, np.uint32(1) << np.uint32(feature), ts, ts):
            usual = max(usual, m.routine_score[k, day])
    return max(ORDINARY, score - (usual - ORDINARY))


@numba.njit(cache=True, inline="always")
def stir(m, ts, feature, score):  # type: ignore[no-untyped-def]
    """A tick whose score is high enough begins a stir or goes on with the present one."""
    if m.stir == 0.0:
        m.stirred[0] = ts
        m.stirred_by = 0
    m.stirred[1] = ts
    m.stirred_by |= np.uint32(1) << np.uint32(feature)
    m.stir = max(m.stir, score)
    m.calm = 0


@numba.njit(cache=True, inline="always")
def end_stir(m):  # type: ignore[no-untyped-def]
    """The present stir is over: it goes on record, as one of those there again or in place of the least that came but once."""
    began, ended = m.stirred
    by, score = m.stirred_by, m.stir
    place, least, again, today = -1, score, False, False
    for k in range(ROUTINES):
        age = began - m.routines[k, LAST, 0]
        today = age <= DAY // 2
        again = _alike(m, k, LAST, by, began, ended) or (today and _alike(m, k, BEFORE, by, began, ended))
        if again:
            place = k
            break
        stale = not 0 <= age < FORGOTTEN
        if m.routine_score[k, BEFORE] > 0.0 and not stale:
            continue
        worth = 0.0 if stale or age > UNIQUE else m.routine_score[k, LAST]
        if worth < least:
            place, least = k, worth
    if place >= 0 and ended - began <= LONGEST:
        if again and today:
            first, last = m.routines[place, LAST]
            began, ended = first, ended if ended - first <= LONGEST else last
            by |= m.routine_by[place, LAST]
            score = max(score, m.routine_score[place, LAST])
        else:
            m.routines[place, BEFORE] = m.routines[place, LAST]
            m.routine_by[place, BEFORE] = m.routine_by[place, LAST] if again else 0
            m.routine_score[place, BEFORE] = m.routine_score[place, LAST] if again else 0.0
            by |= m.routine_by[place, BEFORE]
        m.routines[place, LAST] = began, ended
        m.routine_by[place, LAST] = by
        m.routine_score[place, LAST] = max(score, (score + m.routine_score[place, BEFORE]) / 2.0)
    m.stir = 0.0
