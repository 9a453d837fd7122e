"""Turns reconstruction errors and features into one calibrated score per tick and a decision: one compiled recursion.

Every channel (a feature's reconstruction error, the feature's own size, slow averages of the error, lateness) has a tail
model: a threshold u that tracks the channel's 98 % quantile and a mean excess over it, the peaks-over-threshold method
with a generalised Pareto tail (Siffer et al. 2017, "Anomaly Detection in Streams with Extreme Value Theory"). Shapes come
from training; u, the mean excess and the share of values above u start there and go on adapting to each stream. The
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

from service.features import FEATURES, F, Features

SPEEDS = (1 / 8, 1 / 32, 1 / 128)  # of the slow averages of the squared error
SLOW = 2 * F  # first slow channel; before it F errors and F feature sizes
LATE = SLOW + len(SPEEDS)
C = LATE + 1
CHANNELS = (
    *(f"{name}_error" for name in FEATURES),
    *FEATURES,
    *(f"error_{round(1 / a)}" for a in SPEEDS),
    "lateness",
)

TAIL = 0.02  # share of a channel's values that is modelled as its tail
EVIDENCE_TAIL = 0.01
FIRST = 64  # ticks of a new stream that teach the judge nothing: its features are still finding their means
STRANGE = 3.0  # score from which a tick and the QUIET ones after it teach little: an anomaly must not become normal
LITTLE = 0.02
PRIOR_TICKS = 500.0  # weight, in ticks, of the calibration's share of values above the level
PRIOR_EXCESSES = 100.0  # weight, in values above the level, of the calibration's mean excess
LEVEL_TICKS = (400.0, 50_000)  # memory of a level: a new stream's, and an old one's, in ticks
LEAST_EXCESS = 0.6  # of the calibration's mean excess: without a floor bounded features would alarm for ever
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
        ("slow", "f4", (len(SPEEDS),)),
        ("peak", "f4"),  # highest score of the open incident
        ("seen", "i8"),
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
    -1. `tails` float32 [N, C] is each channel's own -log10 tail probability, 0 where it has nothing to say.
    """

    score: NDArray[np.float64]
    alert: NDArray[np.bool_]
    phase: NDArray[np.uint8]
    incident: NDArray[np.int64]
    tails: NDArray[np.float32]


@numba.njit(cache=True, inline="always")
def _surprise(value: float, level: float, excess: float, shape: float, share: float) -> float:
    """-log10 of the probability to exceed `value`: linear in it up to the level, generalised Pareto beyond."""
    if value <= level:
        return min(-math.log10(share), 2.0) * max(value, 0.0) / level
    beyond = (value - level) / (excess * (1.0 - shape))  # a generalised Pareto tail has scale = mean * (1 - shape)
    more = beyond if shape < 1e-6 else math.log1p(shape * beyond) / shape
    return min(-math.log10(share) + more / math.log(10.0), MAX_SCORE)


@numba.njit(cache=True, inline="always")
def _adapt(memory, c, value, tail, weight, floor):  # type: ignore[no-untyped-def]
    """Move one channel's level towards its 1 - tail quantile (Robbins & Monro 1951) and its mean excess towards the truth."""
    excess = memory.excess[c]
    over = value > memory.level[c]
    if over:
        memory.over[c] += weight
        beyond = min(value - memory.level[c], MOST_BEYOND * excess)
        memory.excess[c] = max(excess + weight * (beyond - excess) / (memory.over[c] + PRIOR_EXCESSES), floor)
    rate = weight / (min(memory.seen, LEVEL_TICKS[1]) + LEVEL_TICKS[0])
    step = rate * excess / tail * ((1.0 if over else 0.0) - tail)
    memory.level[c] = max(memory.level[c] + step, floor)


@numba.njit(cache=True, inline="always")
def _share(memory, c, tail):  # type: ignore[no-untyped-def]
    """Share of values above the level so far: the tail, or less where most values are one and the same."""
    return min((memory.over[c] + tail * PRIOR_TICKS) / (memory.seen + PRIOR_TICKS), 2.0 * tail)


@numba.njit(cache=True)
def _kernel(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0915  (one recursion, read top to bottom)
    rows, offset, z, x, expected, lateness, memory, level, excess, shape, threshold,
    score, alert, phase, incident, tails, values,
):  # fmt: skip
    value = np.empty(C)
    for i in range(rows.shape[0]):
        m = memory[rows[i]]
        if m.seen == 0:
            for c in range(C + 1):
                m.level[c] = level[c]
                m.excess[c] = excess[c]
            for k in range(len(SPEEDS)):
                m.slow[k] = 0.5
            m.incident = -1

        late = lateness[i] > 0.0
        value[:] = np.nan
        value[LATE] = lateness[i]
        if not late:
            total = 0.0
            present = 0
            for j in range(F):
                if not math.isnan(z[i, j]):
                    error = abs(x[i, j] - expected[i, j])
                    value[j] = error
                    value[F + j] = abs(z[i, j])
                    total += min(error * error, 9.0)
                    present += 1
            for k in range(len(SPEEDS)):
                m.slow[k] += SPEEDS[k] * (total / max(present, 1) - m.slow[k])
                value[SLOW + k] = m.slow[k]

        weight = 0.0 if m.seen < FIRST else LITTLE if m.strange > 0 else 1.0
        evidence = 0.0
        for c in range(C):
            if values.shape[0] > 0:
                values[i, c] = value[c]
            if math.isnan(value[c]):
                tails[i, c] = 0.0
                continue
            surprise = _surprise(value[c], m.level[c], m.excess[c], shape[c], _share(m, c, TAIL))
            tails[i, c] = surprise
            evidence = max(evidence, surprise)
            _adapt(m, c, value[c], TAIL, weight, LEAST_EXCESS * excess[c])
        final = _surprise(evidence, m.level[C], m.excess[C], shape[C], _share(m, C, EVIDENCE_TAIL))
        _adapt(m, C, evidence, EVIDENCE_TAIL, weight, LEAST_EXCESS * excess[C])
        m.seen += 1
        final *= min(1.0, m.seen / WARM_UP)
        score[i] = final
        m.strange = QUIET if final >= STRANGE else max(m.strange - 1, 0)

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
        )
        _kernel(
            rows, offset, found.z, x, expected, found.lateness, memory, self._level, self._excess, self._shape,
            self.threshold, verdicts.score, verdicts.alert, verdicts.phase, verdicts.incident, verdicts.tails,
            np.empty((0, C), np.float32) if values is None else values,
        )  # fmt: skip
        return verdicts
