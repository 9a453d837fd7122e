"""Turns a trained autoencoder's errors on real ticks into tail models and thresholds, with the very judge that serves.

Tails: peaks over threshold with generalised Pareto excesses (Coles 2001, "An Introduction to Statistical Modeling of
Extreme Values", ch. 4). Levels and mean excesses are medians over streams, shapes are fitted to the pooled excesses
after each stream's own online adaptation, which is how they will be used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from service import autoencoder, features, judge
from service.card import Population
from service.features import GAP, NO_PRIOR, OFF_QUOTE, TIME_RUN, F, Features, Prior
from service.judge import (
    CHANNELS,
    EVIDENCE_TAIL,
    GRAVE,
    LATE,
    LOCKED,
    OFF_GRID,
    QUIET,
    REPEATS,
    REPLAY,
    STIR,
    TAIL,
    UNQUOTED,
    UNSIZED,
    UNTRADED,
    C,
    Calibration,
    Judge,
    Verdicts,
)
from service.ticks import Ticks
from training.alarms import false_alarms

SETTLED = 2_000  # ticks of each stream that are left out: its own statistics are still forming
GROWN = 20_000  # the same where thresholds are measured: until then a stream's tails are partly those of others
BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
CLEAN = 1.35  # false alarms on clean history for one promised: faults teach the judge, and make it cautious
STIRRED = 1.7  # mild stirs that are ordinary, for one on clean history: faults stir too
MOST_SHAPE = 0.1  # so that channels stay comparable: those with heavier tails would hardly ever be heard
MOST_EXCESSES = 20_000  # per stream and fit, so that a long stream does not drown the others
DECILES = np.arange(1, 10) / 10
APART = 0.1  # usual deviations between two deciles: those of values that are nearly the same would tell nothing apart
MOST_OF_A_STREAM = 20_000  # ticks, so that a long stream does not outweigh the others

NEUTRAL = Calibration(list(CHANNELS), [1.0] * (C + 1), [1.0] * (C + 1), [0.0] * (C + 1))


def prior(streams: list[Ticks]) -> Prior:
    """Median over streams of each feature's mean and standard deviation."""
    observed = [_features(ticks, NO_PRIOR).observed for ticks in streams]
    found = [_after(SETTLED, table) for table in observed]
    means = np.array([_finite(np.nanmean, f) for f in found])
    stds = np.array([_finite(np.nanstd, f) for f in found])
    return Prior(
        np.array([_median(m, 0.0) for m in means.T], np.float32),
        np.array([max(_median(s, 1.0), 1e-3) for s in stds.T], np.float32),
    )


def _finite(statistic: Any, table: NDArray[np.float32]) -> NDArray[np.float64]:
    """The statistic of each column of [N, F], NaN for a column that has no values."""
    empty = np.isnan(table).all(axis=0)
    return np.where(empty, np.nan, statistic(np.where(empty, 0.0, table), axis=0))


def _median(values: NDArray[np.float64], default: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else default


def _features(ticks: Ticks, given: Prior) -> Features:
    return features.features(ticks, np.zeros(len(ticks), np.int64), np.zeros(1, features.MEMORY), given)


@dataclass(frozen=True)
class _Seen:
    """One stream's ticks after features and autoencoder."""

    ts: NDArray[np.int64]
    found: Features
    expected: NDArray[np.float32]

    def judged(
        self, calibration: Calibration, values: NDArray[np.float32] | None = None
    ) -> tuple[Verdicts, NDArray[np.void]]:
        """The verdicts, and the judge's memory after the last tick."""
        n = len(self.expected)
        memory = np.zeros(1, judge.MEMORY)
        rows = np.zeros(n, np.int64)
        verdicts = Judge(calibration, math.inf).judge(
            np.arange(n), self.ts, rows, self.found, self.expected, memory, values
        )
        return verdicts, memory[0]


class Calibrated(NamedTuple):
    """What calibration adds to a model's card, by the names that it has there."""

    calibration: Calibration
    thresholds: dict[str, float]
    populations: tuple[Population, ...]


def calibrate(model: bytes, streams: list[Ticks]) -> Calibrated:
    """Tail models, a threshold per alert budget, and the populations, for an exported model whose card holds NEUTRAL.

    `streams` are the ticks of one stream each, in order.
    """
    loaded = autoencoder.parse(model, Path("the model in training"))
    scale = loaded.card.standardisation
    given = Prior(np.array(scale.mean, np.float32), np.array(scale.std, np.float32))
    seen = []
    for ticks in streams:
        found = _features(ticks, given)
        x = found.x
        state = np.zeros((1, loaded.recurrent), np.float32)
        expected = np.zeros_like(x)
        expected[found.folded] = loaded.reconstruct(x[found.folded], np.zeros(found.folded.sum(), np.int64), state)
        seen.append(_Seen(ticks.ts, found, expected))

    values = []
    for s in seen:
        table = np.empty((len(s.expected), C), np.float32)
        s.judged(NEUTRAL, table)
        values.append(_after(SETTLED, table))
    channels = [GIVEN.get(c) or _tail([table[:, c] for table in values], TAIL) for c in range(C)]
    calibration = _settled(_calibration([*channels, TYPICAL_EVIDENCE]), seen)
    for _ in range(2):  # what the judge takes for strange, and learns little from, hangs on the evidence's tail itself
        judged = [s.judged(calibration)[0].evidence for s in seen]
        evidence = _tail([_after(SETTLED, e) for e in judged], EVIDENCE_TAIL)
        calibration = _with_evidence(calibration, evidence)
    scores = [s.judged(calibration)[0].score for s in seen]
    stirs = _stirs([score[s.found.folded] for s, score in zip(seen, scores, strict=True)])
    calibration = msgspec.structs.replace(calibration, stirs=STIRRED * stirs)
    scores = [s.judged(calibration)[0].score for s in seen]
    columns = [
        np.column_stack([s.found.observed, np.where(s.found.folded, score, np.nan)])
        for s, score in zip(seen, scores, strict=True)
    ]
    return Calibrated(calibration, _thresholds(scores), _populations(columns, [*scale.std, 1.0]))


def _populations(streams: list[NDArray[np.float64]], usual: list[float]) -> tuple[Population, ...]:
    """How each column of [N, F + 1], whose usual deviations are given, is spread over all streams.

    Features are taken as they are: standardised by a mean that moves, a run length or a price that stands still would
    wander across an edge beside which most of its values lie.
    """
    tables = [_after(SETTLED, table) for table in streams]
    thinned = [table[:: 1 + len(table) // MOST_OF_A_STREAM] for table in tables]
    return tuple(_population(np.concatenate([t[:, j] for t in thinned]), APART * usual[j]) for j in range(F + 1))


def _population(values: NDArray[np.float64], apart: float) -> Population:
    """The shares between deciles that lie apart; none where there is too little to tell."""
    known = values[~np.isnan(values)]
    if len(known) < 1000:
        return Population((), (1.0,))
    edges: list[float] = []
    for decile in np.quantile(known, DECILES).tolist():
        if not edges or decile - edges[-1] >= apart:
            edges.append(decile)
    counts = np.bincount(np.searchsorted(edges, known), minlength=len(edges) + 1)
    return Population(tuple(edges), tuple((counts / len(known)).tolist()))


class _Tail(NamedTuple):
    """A tail model: level, mean excess over it, shape."""

    level: float
    excess: float
    shape: float


# Channels that mean the same in every feed, and of which history tells too little or, with its nights, the wrong thing.
GIVEN = {
    GAP: _Tail(14.0, 14.0, MOST_SHAPE),  # in usual gaps; at its least 1 in 1,000 are over 34 and 1 in 10,000 over 61
    TIME_RUN: _Tail(2.3, 0.5, 0.0),  # ten times the usual number of ticks
    OFF_QUOTE: _Tail(0.7, 0.7, MOST_SHAPE),  # in deviations of such a share, as the lacks are
    LATE: _Tail(0.7, 0.7, 0.0),  # e^0.7 us, so that a millisecond is already unusual
    REPEATS: _Tail(0.12, 0.18, MOST_SHAPE),
    UNTRADED: _Tail(0.7, 0.7, 0.0),
    REPLAY: _Tail(0.12, 0.12, 0.0),  # a passage that comes again makes 1
    UNSIZED: _Tail(0.7, 0.7, 0.0),
    UNQUOTED: _Tail(0.7, 0.7, 0.0),
    LOCKED: _Tail(0.16, 0.16, 0.0),
    OFF_GRID: _Tail(0.16, 0.16, 0.0),
}
TYPICAL_EVIDENCE = _Tail(4.0, 1 / math.log(10), 0.0)  # until it is measured: that of exact -log10 probabilities


def _after(ticks: int, rows: NDArray[Any]) -> NDArray[Any]:
    """The rows after the first `ticks`, and no fewer than three quarters of them."""
    return rows[min(ticks, len(rows) // 4) :]


def _tail(streams: list[NDArray[np.float32]], tail: float) -> _Tail:
    """Medians over streams of the 1 - tail quantile and the mean excess, and the shape of all excesses in that unit."""
    levels, excesses, pooled = [], [], []
    for values in streams:
        known = values[~np.isnan(values)].astype(np.float64)
        if len(known) < 1000:
            continue
        level = float(np.quantile(known, 1 - tail))
        over = known[known > level] - level
        if len(over) < 10:
            continue
        levels.append(level)
        excesses.append(float(over.mean()))
        pooled.append(over[:MOST_EXCESSES] / over.mean())
    if not levels:
        return _Tail(1.0, 1.0, 0.0)
    shape = float(np.clip(genpareto.fit(np.concatenate(pooled), floc=0)[0], 0.0, MOST_SHAPE))
    return _Tail(max(float(np.median(levels)), 1e-3), max(float(np.median(excesses)), 1e-3), shape)


def _calibration(tails: list[_Tail]) -> Calibration:
    level, excess, shape = (list(part) for part in zip(*tails, strict=True))
    return Calibration(list(CHANNELS), level, excess, shape)


def _with_evidence(calibration: Calibration, evidence: _Tail) -> Calibration:
    parts = zip((calibration.level, calibration.excess, calibration.shape), evidence, strict=True)
    level, excess, shape = ([*part[:C], last] for part, last in parts)
    return Calibration(list(CHANNELS), level, excess, shape)


def _settled(calibration: Calibration, seen: list[_Seen]) -> Calibration:
    """The calibration with the levels and excesses at which the judge settles by itself, medians over streams.

    A stream that lacks a channel has left its start untouched and does not count.
    """
    final = [s.judged(calibration)[1] for s in seen]
    return msgspec.structs.replace(
        calibration,
        level=[*_middle(calibration.level[:C], [m["level"] for m in final]), calibration.level[C]],
        excess=[*_middle(calibration.excess[:C], [m["excess"] for m in final]), calibration.excess[C]],
    )


def _middle(start: list[float], ends: list[NDArray[np.float32]]) -> list[float]:
    moved = np.array(ends, np.float64)
    moved[moved == np.array(start, np.float32)] = math.nan
    return [begin if c in GIVEN else _median(moved[:, c], begin) for c, begin in enumerate(start)]


def _stirs(scores: list[NDArray[np.float64]]) -> float:
    """The share of ticks that begin a mild stir, as the geometric mean over streams."""
    shares = []
    for score in (_after(GROWN, s) for s in scores):
        at = np.flatnonzero(score >= STIR)
        stirs = np.split(score[at], np.flatnonzero(np.diff(at) > QUIET) + 1)
        shares.append(max(sum(0.0 < s.max(initial=0.0) < GRAVE for s in stirs), 0.5) / len(score))
    return float(np.exp(np.mean(np.log(shares))))


def _thresholds(scores: list[NDArray[np.float64]]) -> dict[str, float]:
    """For each budget the threshold at which the streams show CLEAN times as many false alarms, in the geometric mean.

    So that the promise is off by the same factor above and below: the plain mean is that of the few worst streams.
    """
    settled = [_after(GROWN, s) for s in scores]
    grid = np.linspace(0.5, 14.0, 271)
    rates = [[false_alarms(s >= t, np.ones(len(s), np.bool_)) for s in settled] for t in grid]
    log_rates = np.log(np.maximum(rates, 0.5)).mean(axis=1)
    log_rates = np.minimum.accumulate(log_rates)  # cool-down can make a lower threshold count less
    return {f"{b:g}": float(np.interp(-math.log(CLEAN * b), -log_rates, grid)) for b in BUDGETS}
