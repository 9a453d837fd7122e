"""Turns a trained autoencoder's errors on real ticks into tail models and thresholds, with the very judge that serves.

Tails: peaks over threshold with generalised Pareto excesses (Coles 2001, "An Introduction to Statistical Modeling of
Extreme Values", ch. 4). Levels and mean excesses are medians over streams, shapes are fitted to the pooled excesses
after each stream's own online adaptation, which is how they will be used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from service import autoencoder, features, judge
from service.features import NO_PRIOR, Features, Prior
from service.judge import CHANNELS, EVIDENCE_TAIL, LATE, TAIL, C, Calibration, Judge, Verdicts
from service.ticks import Ticks

SETTLED = 2_000  # ticks of each stream that are left out: its own statistics are still forming
BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
COOL_DOWN = 50  # ticks within which alarms count once; a sustained alarm counts again and again
MOST_EXCESSES = 20_000  # per stream and fit, so that a long stream does not drown the others
LATE_EXCESS = 0.7  # clean history holds no late ticks to learn from: e^0.7 us, so that a millisecond is already unusual

NEUTRAL = Calibration(list(CHANNELS), [1.0] * (C + 1), [1.0] * (C + 1), [0.0] * (C + 1))


def prior(streams: list[Ticks]) -> Prior:
    """Median over streams of each feature's mean and standard deviation."""
    found = [_features(ticks, NO_PRIOR).observed[SETTLED:] for ticks in streams]
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

    found: Features
    x: NDArray[np.float32]
    expected: NDArray[np.float32]

    def judged(
        self, calibration: Calibration, values: NDArray[np.float32] | None = None
    ) -> tuple[Verdicts, NDArray[np.void]]:
        """The verdicts, and the judge's memory after the last tick."""
        n = len(self.x)
        threshold = -math.log10(20 / 100_000)
        memory = np.zeros(1, judge.MEMORY)
        rows = np.zeros(n, np.int64)
        verdicts = Judge(calibration, threshold).judge(
            np.arange(n), rows, self.found, self.x, self.expected, memory, values
        )
        return verdicts, memory[0]


def calibrate(model: bytes, streams: list[Ticks]) -> tuple[Calibration, dict[str, float]]:
    """Tail models, and a threshold per alert budget, for an exported model whose card holds NEUTRAL.

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
        expected = loaded.reconstruct(x, np.zeros(len(x), np.int64), state)
        seen.append(_Seen(found, x, expected))

    calibration = _settled(_levels(seen), seen)
    calibration = _with_shapes(calibration, [s.judged(calibration)[0].tails for s in seen], TAIL, range(LATE))
    calibration = _settled(_with_evidence(calibration, seen), seen)
    scores = [np.repeat(s.judged(calibration)[0].score[:, None], C + 1, axis=1) for s in seen]
    calibration = _with_shapes(calibration, scores, EVIDENCE_TAIL, range(C, C + 1))
    return calibration, _thresholds([s.judged(calibration)[0].score for s in seen])


def _levels(seen: list[_Seen]) -> Calibration:
    levels, excesses = [], []
    for s in seen:
        values = np.empty((len(s.x), C), np.float32)
        s.judged(NEUTRAL, values)
        found = [_level(values[SETTLED:, c], TAIL) for c in range(C)]
        levels.append([level for level, _ in found])
        excesses.append([excess for _, excess in found])
    level = [max(_median(np.array(column), 1.0), 1e-3) for column in zip(*levels, strict=True)]
    excess = [max(_median(np.array(column), 1.0), 1e-3) for column in zip(*excesses, strict=True)]
    return Calibration(list(CHANNELS), [*level, 1.0], [*excess, 1.0], [0.0] * (C + 1))


def _settled(calibration: Calibration, seen: list[_Seen]) -> Calibration:
    """The calibration with the levels and excesses at which the judge settles by itself, medians over streams.

    A stream that lacks a channel has left its start untouched and does not count.
    """
    final = [s.judged(calibration)[1] for s in seen]
    return msgspec.structs.replace(
        calibration,
        level=_middle(calibration.level, [m["level"] for m in final]),
        excess=_middle(calibration.excess, [m["excess"] for m in final]),
    )


def _middle(start: list[float], ends: list[NDArray[np.float32]]) -> list[float]:
    moved = np.array(ends, np.float64)
    moved[moved == np.array(start, np.float32)] = math.nan
    middle = [_median(column, begin) for column, begin in zip(moved.T, start, strict=True)]
    middle[LATE] = LATE_EXCESS
    return middle


def _level(values: NDArray[np.float32], tail: float) -> tuple[float, float]:
    """(1 - tail quantile, mean excess over it); NaN for a channel that the stream does not have."""
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) < 1000:
        return math.nan, math.nan
    level = float(np.quantile(known, 1 - tail))
    over = known[known > level] - level
    return level, float(over.mean()) if len(over) else math.nan


def _with_shapes(calibration: Calibration, tails: list[NDArray[Any]], tail: float, channels: range) -> Calibration:
    """The calibration with shapes fitted to what exceeded the online level, in units of the online mean excess."""
    shape = list(calibration.shape)
    at_level = -math.log10(tail)
    for c in channels:
        pooled = []
        for surprise in tails:
            over = surprise[SETTLED:, c]
            over = over[over > at_level]
            pooled.append((over[:MOST_EXCESSES].astype(np.float64) - at_level) * math.log(10.0))
        excesses = np.concatenate(pooled)
        if len(excesses) > 200:
            shape[c] = float(np.clip(genpareto.fit(excesses / excesses.mean(), floc=0)[0], 0.0, 0.5))
    return msgspec.structs.replace(calibration, shape=shape)


def _with_evidence(calibration: Calibration, seen: list[_Seen]) -> Calibration:
    """The calibration with level and mean excess of the evidence, the largest of a tick's channels."""
    found = [_level(s.judged(calibration)[0].tails[SETTLED:].max(axis=1), EVIDENCE_TAIL) for s in seen]
    level, excess = (_median(np.array(column), 1.0) for column in zip(*found, strict=True))
    return msgspec.structs.replace(
        calibration, level=[*calibration.level[:C], level], excess=[*calibration.excess[:C], max(excess, 1e-3)]
    )


def false_alarms(score: NDArray[np.float64], threshold: float) -> int:
    """Alarms of a clean stream, counted once per COOL_DOWN ticks."""
    count, free_from = 0, 0
    for i in np.flatnonzero(score >= threshold).tolist():
        if i >= free_from:
            count += 1
            free_from = i + COOL_DOWN
    return count


def _thresholds(scores: list[NDArray[np.float64]]) -> dict[str, float]:
    """For each budget the threshold at which the streams, each counting the same, show that many false alarms."""
    settled = [s[SETTLED:] for s in scores if len(s) > 2 * SETTLED]
    grid = np.linspace(1.5, 14.0, 251)
    rates = [np.mean([false_alarms(s, t) / len(s) for s in settled]) * 100_000 for t in grid]
    log_rates = np.log(np.maximum(rates, 1e-2))
    log_rates = np.minimum.accumulate(log_rates)  # cool-down can make a lower threshold count less
    return {f"{b:g}": float(np.interp(-math.log(b), -log_rates, grid)) for b in BUDGETS}
