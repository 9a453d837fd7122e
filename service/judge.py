"""Turns reconstruction errors and features into one calibrated score per tick and a decision: one compiled recursion.

Every feature has three channels: its size (something sudden), its EW mean (its trend), and the EW mean of how far the
autoencoder's reconstruction misses it (its misfit). Lateness and repetition are two more. Every channel has a tail model:
a threshold u that tracks the channel's 98 % quantile and a mean excess over it, the peaks-over-threshold method with a
generalised Pareto tail (Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory"). Shapes come from
training; u, the mean excess and the share of values above u start there and go on adapting to each stream. The
largest channel is the tick's evidence; the evidence has such a tail model of its own, so that the score is -log10 of a
tail probability of *this* stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from service.features import CROSSED, FEATURES, F, Features

SPEED = 1 / 16  # of the EW means
TREND, MISFIT = F, 2 * F  # first channel of either; before them the sizes of the features
LATE = 3 * F
REPEATS = LATE + 1
C = REPEATS + 1
CHANNELS = (
    *FEATURES,
    *(f"{name}_trend" for name in FEATURES),
    *(f"{name}_misfit" for name in FEATURES),
    "lateness",
    "repeats",
)

TAIL = 0.02  # share of a channel's values that is modelled as its tail
EVIDENCE_TAIL = 0.01
FIRST = 64  # ticks of a new stream that teach the judge nothing: its features are still finding their means
STRANGE = 3.0  # score from which the QUIET ticks after one teach little: an anomaly must not become normal
LITTLE = 0.02
PRIOR_TICKS = 500.0  # weight, in ticks, of the calibration's share of values above the level
PRIOR_EXCESSES = 100.0  # weight, in values above the level, of the calibration's mean excess
LEVEL_TICKS = (400.0, 50_000)  # memory of a level: a new stream's, and an old one's, in ticks
LEAST_EXCESS = 0.6  # of the calibration's mean excess: without a floor bounded features would alarm for ever
LEAST_MISFIT = 1.0  # the same for misfits: what the network finds hard elsewhere it may find hard here
MOST_BEYOND = 6.0  # mean excesses that one value may teach
WARM_UP = 256  # ticks over which a new stream's score grows to full strength
QUIET = 64  # ticks without a crossing that close an incident
MAX_SCORE = 15.0

NONE, OPENED, UPDATED = 0, 1, 2
PHASES = ("none", "opened", "updated")

MEMORY = np.dtype(
    [
        ("level", "f4", (C + 1,)),  # u of every channel, and of the evidence
        ("excess", "f4", (C + 1,)),  # mean excess over u
        ("over", "f4", (C + 1,)),  # values above u so far
        ("trend", "f4", (F,)),  # EW means of the features, and of how far the reconstruction misses them
        ("misfit", "f4", (F,)),
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
    """Where each tail model starts: level, mean excess and shape of every channel and, last, of the evidence [C + 1]."""

    channels: list[str]
    level: list[float]
    excess: list[float]
    shape: list[float]


@dataclass(frozen=True)
class Verdicts:
    """What the judge says of N ticks.

    `score` float64 [N] is -log10 of the tail probability. `phase` uint8 [N] is OPENED where the score crossed the threshold
    and no incident was open, UPDATED where an open incident got ten times less probable or its crossings doubled, else NONE;
    `alert` bool [N] is true for both. `incident` int64 [N] is the offset that opened the incident the tick belongs to, or
    -1. `tails` float32 [N, C] is each channel's own -log10 tail probability, 0 where it has nothing to say. `trend` and `misfit`
    float32 [N, F] are the EW means of the features and of what the reconstruction lacks of them, in standard deviations.
    """

    score: NDArray[np.float64]
    alert: NDArray[np.bool_]
    phase: NDArray[np.uint8]
    incident: NDArray[np.int64]
    tails: NDArray[np.float32]
    trend: NDArray[np.float32]
    misfit: NDArray[np.float32]


@numba.njit(cache=True, inline="always")
def _surprise(value, level, excess, shape, over, ticks, tail):  # type: ignore[no-untyped-def]
    """-log10 of the probability to exceed `value`: linear in it up to the level, generalised Pareto beyond.

    The share of values above the level so far is the tail, or less where most values are one and the same, at most twice it.
    """
    if value <= level:
        return -math.log10(2.0 * tail) * max(value, 0.0) / level
    share = min((over + tail * PRIOR_TICKS) / ticks, 2.0 * tail)
    beyond = (value - level) / (excess * (1.0 - shape))  # a generalised Pareto tail has scale = mean * (1 - shape)
    more = beyond if shape < 1e-6 else math.log1p(shape * beyond) / shape
    return min(-math.log10(share) + more / math.log(10.0), MAX_SCORE)


@numba.njit(cache=True, inline="always")
def _adapt(memory, c, value, tail, weight, rate, floor):  # type: ignore[no-untyped-def]
    """Move one channel's level towards its 1 - tail quantile (Robbins & Monro 1951) and its mean excess towards the truth."""
    level, excess = memory.level[c], memory.excess[c]
    if value > level:
        memory.over[c] += weight
        beyond = min(value - level, MOST_BEYOND * excess)
        memory.excess[c] = max(excess + weight * (beyond - excess) / (memory.over[c] + PRIOR_EXCESSES), floor)
        level += rate * excess * (1.0 / tail - 1.0)
    else:
        level -= rate * excess
    memory.level[c] = max(level, floor)


@numba.njit(cache=True)
def _kernel(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0915  (one recursion, read top to bottom)
    rows, offset, z, x, expected, lateness, repeats, memory, level, excess, shape, least, threshold,
    score, alert, phase, incident, tails, trend, misfit, values,
):  # fmt: skip
    value = np.empty(C)
    for i in range(rows.shape[0]):
        m = memory[rows[i]]
        if m.seen == 0:
            for c in range(C + 1):
                m.level[c] = level[c]
                m.excess[c] = excess[c]
            m.incident = -1

        folded = lateness[i] == 0.0 and repeats[i] == 0.0
        value[:] = np.nan
        value[LATE] = lateness[i]
        value[REPEATS] = repeats[i]
        if folded:
            for j in range(F):
                value[j] = abs(z[i, j])
                m.trend[j] += SPEED * (x[i, j] - m.trend[j])
                m.misfit[j] += SPEED * (x[i, j] - expected[i, j] - m.misfit[j])
                if j != CROSSED:  # quotes cross in bursts, and the first tick of one says it all
                    value[TREND + j] = abs(m.trend[j])
                    value[MISFIT + j] = abs(m.misfit[j])

        for j in range(F):
            trend[i, j] = m.trend[j]
            misfit[i, j] = m.misfit[j]

        ticks = m.seen + PRIOR_TICKS
        evidence = 0.0
        for c in range(C):
            if values.shape[0] > 0:
                values[i, c] = value[c]
            tails[i, c] = 0.0
            if not math.isnan(value[c]):
                tails[i, c] = _surprise(value[c], m.level[c], m.excess[c], shape[c], m.over[c], ticks, TAIL)
            evidence = max(evidence, tails[i, c])
        final = _surprise(evidence, m.level[C], m.excess[C], shape[C], m.over[C], ticks, EVIDENCE_TAIL)
        final *= min(1.0, (m.seen + 1.0) / WARM_UP)
        score[i] = final

        strange = final >= STRANGE
        weight = 0.0 if m.seen < FIRST else LITTLE if m.strange > 0 or (strange and not folded) else 1.0
        rate = weight / (min(m.seen, LEVEL_TICKS[1]) + LEVEL_TICKS[0])
        for c in range(C):
            if not math.isnan(value[c]):
                _adapt(m, c, value[c], TAIL, weight, rate, least[c])
        if folded:  # so that ticks that come again change no later score of the others
            _adapt(m, C, evidence, EVIDENCE_TAIL, weight, rate, least[C])
            m.seen += 1
            m.strange = QUIET if strange else max(m.strange - 1, 0)

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
        self._least = self._excess * LEAST_EXCESS
        self._least[MISFIT:LATE] = self._excess[MISFIT:LATE] * LEAST_MISFIT

    def judge(
        self,
        offset: NDArray[np.int64],
        rows: NDArray[np.int64],
        found: Features,
        x: NDArray[np.float32],
        expected: NDArray[np.float32],
        memory: NDArray[np.void],
        values: NDArray[np.float32] | None = None,
    ) -> Verdicts:
        """Judge N ticks in order; `memory` (MEMORY [R]) at `rows` is changed in place.

        `x` and `expected` float32 [N, F] are the autoencoder's input and reconstruction. `values` float32 [N, C], if given,
        receives each channel's raw value, NaN where it has none (calibration wants them).
        """
        n = len(rows)
        verdicts = Verdicts(
            np.empty(n),
            np.empty(n, np.bool_),
            np.empty(n, np.uint8),
            np.empty(n, np.int64),
            np.empty((n, C), np.float32),
            np.empty((n, F), np.float32),
            np.empty((n, F), np.float32),
        )
        _kernel(
            rows, offset, found.z, x, expected, found.lateness, found.repeats, memory, self._level, self._excess,
            self._shape, self._least, self.threshold, verdicts.score, verdicts.alert, verdicts.phase, verdicts.incident,
            verdicts.tails, verdicts.trend, verdicts.misfit, np.empty((0, C), np.float32) if values is None else values,
        )  # fmt: skip
        return verdicts
