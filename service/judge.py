"""Turns reconstruction errors and features into one calibrated score per tick and a decision: one compiled recursion.

Most features have a channel for their size (something sudden; of the gap, its length in usual gaps; of the run of one time,
its length over the usual one; of trades off the quotes, how far their share exceeds the usual one). Those of one tick alone have
two more: the feature's EW mean (its trend), and the EW mean of how far the autoencoder's reconstruction misses it (its misfit),
but for those that told no faults from a market's own ways. Lateness, repetition, replay, lack of trades, sizes or quotes in
a stream that usually has them, locked quotes, and values with more decimals than usual are eight more. Every channel has a tail
model: a threshold u that tracks the channel's 98 % quantile and a mean excess over it, the peaks-over-threshold method with a
generalised Pareto tail (Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory"). Shapes come from
training; u, the mean excess and the share of values above u start there and go on adapting to each stream. The most surprising
feature, with a part of the next two, is the tick's evidence. Its tail model, which makes it a score, is the same for all
streams: the channels have adapted already, and one that followed the evidence too would learn from faults to expect them.
What streams still differ in is how often they stir mildly, as faults seldom do. The scores of one that stirs more often than
others are cut a little, and those of one that stirs less often raised (stochastic approximation: Robbins & Monro 1951; to
keep a rate of alarms whatever the stream, Gibbs & Candès 2021, "Adaptive Conformal Inference Under Distribution Shift").
What a stream does at the same time of every day (routine.py) counts by what it exceeds that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from service import routine
from service.features import (
    BOOK_RUN,
    DEPTH,
    DEVIATION,
    FEATURES,
    GAP,
    MID_MOVES,
    MID_RETURN,
    OFF_QUOTE,
    PRICE_RUN,
    QUOTE_RUN,
    RETURN,
    SIZE,
    SIZE_RUN,
    SPIKE,
    SPREAD,
    TIME_RUN,
    F,
    Features,
)

SPEED = 1 / 16  # of the EW means
FADE = 1 / 4096  # of theirs where a tick lacks the feature: a trade says nothing new of quotes, nor a quote of trades
# Features that have them. The others are averages already, and the first of some crossed quotes says it all.
TRENDS = (RETURN, SPIKE, GAP, SIZE_RUN, SPREAD, DEVIATION, PRICE_RUN, QUOTE_RUN, DEPTH, BOOK_RUN, MID_MOVES)
LASTING = (*TRENDS, MID_RETURN, SIZE)
MISFITS = (RETURN, MID_RETURN, SPIKE, SIZE, SIZE_RUN, SPREAD, DEVIATION, PRICE_RUN, QUOTE_RUN)
MISFIT = F + len(TRENDS)  # first channel of the misfits; those of the trends follow the sizes
LATE = MISFIT + len(MISFITS)  # first channel that is of no feature
REPEATS = LATE + 1
UNTRADED = REPEATS + 1
REPLAY = UNTRADED + 1  # first one that counts as a feature
UNSIZED = REPLAY + 1
UNQUOTED = UNSIZED + 1
LOCKED = UNQUOTED + 1
OFF_GRID = LOCKED + 1
C = OFF_GRID + 1
CHANNELS = (
    *FEATURES,
    *(f"{FEATURES[j]}_trend" for j in TRENDS),
    *(f"{FEATURES[j]}_misfit" for j in MISFITS),
    "lateness",
    "repeats",
    "untraded",
    "replay",
    "unsized",
    "unquoted",
    "locked",
    "off_grid",
)
FEATURE_OF = np.array([*range(F), *TRENDS, *MISFITS])  # of each channel below LATE
TREND_OF = np.array([F + TRENDS.index(j) if j in TRENDS else -1 for j in range(F)])  # channel, -1 where there is none
MISFIT_OF = np.array([MISFIT + MISFITS.index(j) if j in MISFITS else -1 for j in range(F)])
SUDDEN = np.ones(F, np.bool_)  # features whose size is judged
SUDDEN[[SIZE_RUN, BOOK_RUN, MID_MOVES]] = False  # where few runs have two ticks, three are no fault
SIDE = np.zeros(LATE)  # 1 where only what is above its mean is a fault, -1 below
SIDE[FEATURE_OF == SPREAD] = 1  # narrow ones harm nobody
SIDE[DEPTH] = 1  # one small size at the best quotes is ordinary, and such would hide the large ones
SIDE[TREND_OF[[SIZE_RUN, PRICE_RUN, BOOK_RUN, MID_MOVES]]] = 1  # short runs harm nobody either
SIDE[TREND_OF[[GAP, DEPTH]]] = -1  # how slow ticks come, the pause says; sizes that stay small are a thin book

TAIL = 0.02  # share of a channel's values that is modelled as its tail
EVIDENCE_TAIL = 0.01
FIRST = 64  # ticks of a new stream that teach the judge nothing: its features are still finding their means
STRANGE = 3.0  # score from which the QUIET ticks after one teach little: an anomaly must not become normal
LITTLE = 0.02
YOUNG = 5_000.0  # ticks of a new stream over which strange ones teach too, less and less: its tails are still those of others
PRIOR_TICKS = 100.0  # weight, in ticks, of the calibration's share of values above the level
# Weight, in values above the level, of the calibration's mean excess: a new stream's, what each of its ticks adds, and an
# old one's. What exceeds the level in a new stream are its ways; in an old one, where it hardly ever happens, they are faults.
PRIOR_EXCESSES = (10.0, 0.01, 100.0)
LEVEL_TICKS = (400.0, 50_000)  # memory of a level: a new stream's, and an old one's, in ticks
LEAST_EXCESS = 0.6  # of the calibration's mean excess: without a floor bounded features would alarm for ever
LEAST_MISFIT = 1.0  # the same for misfits: what the network finds hard elsewhere it may find hard here
MOST_BEYOND = 6.0  # mean excesses that one value may teach
WARM_UP = 256  # ticks over which a new stream's score grows to full strength
SUPPORT = 0.2  # of its surprise is what the second and the third feature add to that of the first
LEAST_LACK = 0.2  # share of ticks that may always lack a field, or be no trade: the first one that does so is no fault
ALONE = 1.3  # how much a late or repeated tick's surprise counts: it has no features that could support it
QUIET = 64  # ticks without a crossing that close an incident, or end a stir
STIR = 3.0  # score that begins a stir: about where the threshold of a budget of 20 lies
GRAVE = 4.5  # one that is none of the mild ones
CAUTION_STEP = 0.012  # what each mild one adds to a stream's caution
MOST_CAUTION = 0.12  # share of the score that caution may take, or add
NEW_CAUTION = 0.2  # what a new stream's score lacks besides, less and less until it is no longer young
MAX_SCORE = 15.0

NONE, OPENED, UPDATED = 0, 1, 2
PHASES = ("none", "opened", "updated")

MEMORY = np.dtype(
    [
        ("level", "f4", (C,)),  # u of every channel
        ("excess", "f4", (C,)),  # mean excess over u
        ("over", "f4", (C,)),  # values above u so far
        ("trend", "f4", (len(LASTING),)),  # EW means of features, and of how far the reconstruction misses them
        ("misfit", "f4", (len(LASTING),)),
        *routine.FIELDS,
        ("caution", "f4"),  # share of the score that the stream's many stirs take; below 0 what few of them add
        ("peak", "f4"),  # highest score of the open incident
        ("seen", "i8"),  # ticks that were folded
        ("incident", "i8"),  # offset of the tick that opened the incident, -1 when none is open
        ("crossings", "i4"),
        ("quiet", "i4"),
        ("strange", "i4"),  # ticks for which the last strange one still keeps the others from teaching
    ],
    align=True,
)


class Calibration(msgspec.Struct, frozen=True):
    """Level, mean excess and shape [C + 1]: where the tail models of the channels start and, last, that of the evidence.

    `stirs` is the share of a stream's ticks that usually begin a mild stir; where it is 0 streams have no caution.
    """

    channels: list[str]
    level: list[float]
    excess: list[float]
    shape: list[float]
    stirs: float = 0.0


@dataclass(frozen=True)
class Verdicts:
    """What the judge says of N ticks.

    `score` float64 [N] is -log10 of the tail probability, less a share of it where the stream is judged with caution, and less
    what is usual at that time of day. `phase` uint8 [N] is OPENED where the score crossed the threshold and no incident was open,
    UPDATED where an open incident got ten times less probable or its crossings doubled, else NONE; `alert` bool [N] is true for
    both. `incident` int64 [N] is the offset that opened the incident the tick belongs to, or -1. `evidence` float32 [N] is what
    the score is the improbability of. `tails` float32 [N, C] is each channel's own -log10 tail probability, 0 where it has
    nothing to say. `trend` and `misfit` float32 [N, len(LASTING)] are the EW means of those features and of what the
    reconstruction lacks of them, in standard deviations.
    """

    score: NDArray[np.float64]
    alert: NDArray[np.bool_]
    phase: NDArray[np.uint8]
    incident: NDArray[np.int64]
    evidence: NDArray[np.float32]
    tails: NDArray[np.float32]
    trend: NDArray[np.float32]
    misfit: NDArray[np.float32]


@numba.njit(cache=True, inline="always")
def _surprise(value, level, excess, shape, share, tail):  # type: ignore[no-untyped-def]
    """-log10 of the probability to exceed `value`: linear in it up to the level, generalised Pareto beyond.

    `share` of the values are above the level, of which `tail` were meant to be, at most twice as many.
    """
    if value <= level:
        return -math.log10(2.0 * tail) * max(value, 0.0) / level
    beyond = (value - level) / (excess * (1.0 - shape))  # a generalised Pareto tail has scale = mean * (1 - shape)
    more = beyond if shape < 1e-6 else math.log1p(shape * beyond) / shape
    return min(-math.log10(min(share, 2.0 * tail)) + more / math.log(10.0), MAX_SCORE)


@numba.njit(cache=True, inline="always")
def _evidence(tails, best):  # type: ignore[no-untyped-def]
    """The most surprising feature, or channel from REPLAY on, with a part of the next two: what is real shows in more than one.

    `best` float32 [F + C - REPLAY] receives the largest surprise of each feature's channels, of both lacks, and of the others.
    """
    best[:F] = tails[:F]
    best[F:] = tails[REPLAY:]
    best[F + UNSIZED - REPLAY] = max(tails[UNSIZED], tails[UNTRADED])  # a tick without a size is no trade either
    for c in range(F, LATE):
        best[FEATURE_OF[c]] = max(best[FEATURE_OF[c]], tails[c])
    first, second, third = 0.0, 0.0, 0.0
    for tail in best:
        third = max(third, min(second, tail))
        second = max(second, min(first, tail))
        first = max(first, tail)
    return first + SUPPORT * (second + third)


@numba.njit(cache=True, inline="always")
def _sided(value, side):  # type: ignore[no-untyped-def]
    """How far a value is from 0, on both sides (`side` 0) or on one of them."""
    return abs(value) if side == 0.0 else max(side * value, 0.0)


@numba.njit(cache=True, inline="always")
def _lack(share, usual):  # type: ignore[no-untyped-def]
    """How far a share lies below the usual one, in standard deviations of an EW mean of such independent ticks; 0 for NaN."""
    variance = max(usual * (1.0 - usual), LEAST_LACK * (1.0 - LEAST_LACK))
    return 0.0 if math.isnan(share) else max(usual - share, 0.0) / math.sqrt(variance * SPEED / (2.0 - SPEED))


@numba.njit(cache=True, inline="always")
def _adapt(memory, c, value, weight, rate, prior, floor):  # type: ignore[no-untyped-def]
    """Move one channel's level towards its 1 - TAIL quantile (Robbins & Monro 1951) and its mean excess towards the truth."""
    level, excess = memory.level[c], memory.excess[c]
    if value > level:
        memory.over[c] += weight
        beyond = min(value - level, MOST_BEYOND * excess)
        memory.excess[c] = max(excess + weight * (beyond - excess) / (memory.over[c] + prior), floor)
        level += rate * excess * (1.0 / TAIL - 1.0)
    else:
        level -= rate * excess
    memory.level[c] = max(level, floor)


@numba.njit(cache=True, nogil=True)
def _kernel(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0915  (one recursion, read top to bottom)
    rows, offset, ts, z, observed, mean, x, expected, folded, lateness, repeats, pause, replay, share,
    usual_share, off_grid, memory, level, excess, shape, stirs, least, threshold,
    score, alert, phase, incident, evidence, tails, trend, misfit, values,
):  # fmt: skip
    value = np.empty(C)
    best = np.empty(F + C - REPLAY, np.float32)
    for i in range(rows.shape[0]):
        m = memory[rows[i]]
        if m.seen == 0:
            m.level[:] = level[:C]
            m.excess[:] = excess[:C]
            m.incident = -1

        value[:] = np.nan
        value[LATE] = lateness[i]
        value[REPEATS] = repeats[i]
        if folded[i]:
            if math.isnan(pause[i]):  # a session begins: what came lately is of the one before, an open incident too
                m.trend[:] = 0.0
                m.misfit[:] = 0.0
                if m.stir > 0.0:
                    routine.end_stir(m)
                m.strange = 0
                m.incident = -1
            for j in range(F):
                if SUDDEN[j] and not math.isnan(z[i, j]):
                    value[j] = _sided(z[i, j], SIDE[j])
            for k, j in enumerate(LASTING):
                if math.isnan(z[i, j]):
                    m.trend[k] -= FADE * m.trend[k]
                    m.misfit[k] -= FADE * m.misfit[k]
                else:
                    m.trend[k] += SPEED * (x[i, j] - m.trend[k])
                    m.misfit[k] += SPEED * (x[i, j] - expected[i, j] - m.misfit[k])
                if TREND_OF[j] >= 0:
                    value[TREND_OF[j]] = _sided(m.trend[k], SIDE[TREND_OF[j]])
                if MISFIT_OF[j] >= 0:
                    value[MISFIT_OF[j]] = _sided(m.misfit[k], SIDE[MISFIT_OF[j]])
            value[GAP] = pause[i]
            value[REPLAY] = replay[i]
            value[UNTRADED] = _lack(share[i, 0], usual_share[i, 0])
            value[UNSIZED] = _lack(share[i, 1], usual_share[i, 1])
            value[UNQUOTED] = 0.0
            for j in range(2, share.shape[1]):
                value[UNQUOTED] = max(value[UNQUOTED], _lack(share[i, j], usual_share[i, j]))
            if not math.isnan(observed[i, TIME_RUN]):
                value[TIME_RUN] = max(observed[i, TIME_RUN] - mean[i, TIME_RUN], 0.0)
            if not math.isnan(observed[i, OFF_QUOTE]):
                value[OFF_QUOTE] = _lack(1.0 - observed[i, OFF_QUOTE], 1.0 - mean[i, OFF_QUOTE])
            if not math.isnan(observed[i, SPREAD]):
                value[LOCKED] = 1.0 if observed[i, SPREAD] == 0.0 else 0.0
            value[OFF_GRID] = 1.0 if off_grid[i, 0] >= 0 else 0.0
        trend[i] = m.trend
        misfit[i] = m.misfit

        ticks = m.seen + PRIOR_TICKS
        for c in range(C):
            if values.shape[0] > 0:
                values[i, c] = value[c]
            tails[i, c] = 0.0
            if not math.isnan(value[c]):
                beyond = (m.over[c] + TAIL * PRIOR_TICKS) / ticks  # less than the tail where most values are the same
                tails[i, c] = _surprise(value[c], m.level[c], m.excess[c], shape[c], beyond, TAIL)
        evidence[i] = _evidence(tails[i], best) if folded[i] else ALONE * max(tails[i, LATE], tails[i, REPEATS])
        final = _surprise(evidence[i], level[C], excess[C], shape[C], EVIDENCE_TAIL, EVIDENCE_TAIL)
        final *= min(1.0, (m.seen + 1.0) / WARM_UP)
        strange = final >= STRANGE
        final *= 1.0 - m.caution - NEW_CAUTION * max(0.0, 1.0 - m.seen / YOUNG)
        stirring = final
        if folded[i] and final > routine.ORDINARY:
            final = routine.beyond(m, ts[i], np.argmax(best), final)
        score[i] = final

        weight = 0.0 if m.seen < FIRST else 1.0
        if m.strange > 0 or (strange and not folded[i]):
            weight *= max(LITTLE, 1.0 - m.seen / YOUNG)
        rate = weight / (min(m.seen, LEVEL_TICKS[1]) + LEVEL_TICKS[0])
        prior = min(PRIOR_EXCESSES[0] + PRIOR_EXCESSES[1] * m.seen, PRIOR_EXCESSES[2])
        for c in range(C):
            if not math.isnan(value[c]):
                _adapt(m, c, value[c], weight, rate, prior, least[c])
        if folded[i]:  # so that ticks that come again change no later score of the others
            m.seen += 1
            m.strange = QUIET if strange else max(m.strange - 1, 0)
            step = -stirs
            if stirring >= STIR:
                routine.stir(m, ts[i], np.argmax(best), stirring)
            elif m.stir > 0.0:
                m.calm += 1
                if m.calm == QUIET:
                    step += 1.0 if m.stir < GRAVE else 0.0
                    routine.end_stir(m)
            if stirs > 0.0:
                m.caution = max(-MOST_CAUTION, min(MOST_CAUTION, m.caution + CAUTION_STEP * step))

        crossed = final >= threshold
        phase[i] = NONE
        if crossed and m.incident < 0:
            phase[i] = OPENED
            m.incident = offset[i]
            m.crossings = 1
            m.peak = final
            m.quiet = 0
        elif crossed:
            m.crossings += 1
            m.quiet = 0
            if final >= m.peak + 1.0 or m.crossings & (m.crossings - 1) == 0:
                phase[i] = UPDATED
            m.peak = max(m.peak, final)
        elif m.incident >= 0:
            m.quiet += 1
            if m.quiet >= QUIET:
                m.incident = -1
        alert[i] = phase[i] != NONE
        incident[i] = m.incident


class Judge:
    """A calibration and a threshold, ready to judge."""

    def __init__(self, calibration: Calibration, threshold: float) -> None:
        self.threshold = threshold
        self._level = np.array(calibration.level)
        self._excess = np.array(calibration.excess)
        self._shape = np.array(calibration.shape)
        self._stirs = calibration.stirs
        self._least = self._excess * LEAST_EXCESS
        self._least[MISFIT:LATE] = self._excess[MISFIT:LATE] * LEAST_MISFIT

    def judge(
        self,
        offset: NDArray[np.int64],
        ts: NDArray[np.int64],
        rows: NDArray[np.int64],
        found: Features,
        expected: NDArray[np.float32],
        memory: NDArray[np.void],
        values: NDArray[np.float32] | None = None,
    ) -> Verdicts:
        """Judge N ticks in order; `memory` (MEMORY [R]) at `rows` is changed in place.

        `expected` float32 [N, F] is the autoencoder's reconstruction. `values` float32 [N, C], if given, receives each channel's
        raw value, NaN where it has none (calibration wants them).
        """
        n = len(rows)
        verdicts = Verdicts(
            np.empty(n),
            np.empty(n, np.bool_),
            np.empty(n, np.uint8),
            np.empty(n, np.int64),
            np.empty(n, np.float32),
            np.empty((n, C), np.float32),
            np.empty((n, len(LASTING)), np.float32),
            np.empty((n, len(LASTING)), np.float32),
        )
        _kernel(
            rows, offset, ts, found.z, found.observed, found.mean, found.x, expected, found.folded, found.lateness, found.repeats,
            found.pause, found.replay, found.share, found.usual_share, found.off_grid,
            memory, self._level, self._excess, self._shape, self._stirs, self._least, self.threshold,
            verdicts.score, verdicts.alert, verdicts.phase, verdicts.incident, verdicts.evidence, verdicts.tails,
            verdicts.trend, verdicts.misfit,
            np.empty((0, C), np.float32) if values is None else values,
        )  # fmt: skip
        return verdicts
