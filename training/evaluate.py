"""Scores detectors over ticks with injected anomalies: how well they rank, and what they catch at an alarm budget.

Only rows after the clean head are judged. A tick is an alert where its score reaches the threshold. It is a false alarm
when it is more than TOLERANCE ticks after any event and in none; COOL_DOWN ticks from one false alarm to the next, so a
sustained false alarm counts again and again. An event is caught when an alert falls between its start and TOLERANCE
ticks after its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.ticks import Ticks
from training.alarms import count, false_alarms
from training.inject import Event, Injected

TOLERANCE: Final = 150
BUDGETS: Final = (20.0, 100.0)  # false alarms per 100,000 normal ticks at which events are counted
VUS_WINDOW: Final = 100
RECALLS: Final = tuple(i / 50 for i in range(1, 51))

Detector = Callable[[Ticks], NDArray[np.float64]]  # scores [N], each from the ticks up to its own; higher is stranger


@dataclass(frozen=True)
class Candidate:
    """A detector that stands for evaluation.

    `name` is its own; candidates of one `group` differ by their training seed alone and make one row of a table. `prepare`
    makes it ready for a stream from that stream's clean head, and `threshold` is the score at which it promises to make so
    many false alarms per 100,000 normal ticks; None where it promises nothing.
    """

    name: str
    group: str
    is_baseline: bool
    prepare: Callable[[Ticks], Detector]
    threshold: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Result:
    """One detector on one injected stream.

    `ap_by_kind` holds the average precision of a kind against normal ticks only; `precision` that of all kinds at each of
    RECALLS; `delays` the ticks from an event's start to its first alert, None where it was missed, by budget and in the
    order of `events`; `realised` the false alarms per 100,000 normal ticks at the detector's own thresholds, by what they
    promise.
    """

    stream: str
    events: list[Event]
    vus_pr: float
    vus_roc: float
    ap: float
    ap_by_kind: dict[str, float]
    precision: list[float]
    delays: dict[float, list[int | None]]
    realised: dict[float, float]


def evaluate(
    detector: Detector,
    injected: Injected,
    thresholds: Mapping[float, float] = MappingProxyType({}),
    budgets: Sequence[float] = BUDGETS,
    vus_window: int = VUS_WINDOW,
) -> Result:
    """Everything measured of one detector on one stream; `thresholds` are those that it would serve with, by budget.

    Raises TickwatchError when there is nothing to find, or the scores are not one number per tick.
    """
    name = injected.ticks.stream[0]
    if not injected.events:
        raise TickwatchError(f"stream {name!r} holds no injected event; give a longer stream or another seed")
    score = detector(injected.ticks)
    if score.shape != (len(injected.ticks),) or not np.isfinite(score).all():
        raise TickwatchError(f"the detector must give stream {name!r} one finite score per tick")
    score = score[injected.clean :]
    events = [Event(e.kind, e.start - injected.clean, e.stop - injected.clean) for e in injected.events]
    anomalous = _rows(events, len(score))
    normal = ~_rows(events, len(score), TOLERANCE)
    vus_roc, vus_pr = vus(anomalous, score, vus_window)
    ap_by_kind = {}
    for kind in {e.kind for e in events}:
        of_kind = _rows([e for e in events if e.kind == kind], len(score))
        ap_by_kind[kind] = average_precision(of_kind[of_kind | normal], score[of_kind | normal])
    levels = {budget: threshold_at(score, normal, budget) for budget in budgets}
    return Result(
        stream=name,
        events=injected.events,
        vus_pr=vus_pr,
        vus_roc=vus_roc,
        ap=average_precision(anomalous, score),
        ap_by_kind=ap_by_kind,
        precision=precision_at(anomalous, score),
        delays={budget: [_delay(score >= level, e) for e in events] for budget, level in levels.items()},
        realised={budget: false_alarms(score >= level, normal) for budget, level in thresholds.items()},
    )


def overall(results: Sequence[Result]) -> dict[str, float]:
    """Means over streams of VUS, AP and event recall at each budget; quantiles of the delays of all caught events."""
    table = {name: float(np.mean([getattr(r, name) for r in results])) for name in ("vus_pr", "vus_roc", "ap")}
    for budget in results[0].delays:
        caught = [[d is not None for d in r.delays[budget]] for r in results]
        table[f"recall@{budget:g}"] = float(np.mean([np.mean(c) for c in caught]))
    return table | _delay_quantiles([r.delays for r in results])


def by_kind(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """The same by kind of anomaly, without VUS: AP as the mean over streams, recall over all events of the kind."""
    table = {}
    for kind in sorted({e.kind for r in results for e in r.events}):
        delays = [_delays_of(r, kind) for r in results]
        row = {"ap": float(np.mean([r.ap_by_kind[kind] for r in results if kind in r.ap_by_kind]))}
        for budget in results[0].delays:
            caught = [d is not None for stream in delays for d in stream[budget]]
            row |= {"events": float(len(caught)), f"recall@{budget:g}": float(np.mean(caught))}
        table[kind] = row | _delay_quantiles(delays)
    return table


def _delays_of(result: Result, kind: str) -> dict[float, list[int | None]]:
    own = [e.kind == kind for e in result.events]
    return {budget: list(compress(delays, own)) for budget, delays in result.delays.items()}


def _delay_quantiles(delays: Sequence[dict[float, list[int | None]]]) -> dict[str, float]:
    """Median and 90 % quantile of the delays of caught events in ticks, NaN where none was caught."""
    table: dict[str, float] = {}
    for budget in delays[0]:
        caught = [d for stream in delays for d in stream[budget] if d is not None]
        p50, p90 = np.quantile(caught, [0.5, 0.9]) if caught else (np.nan, np.nan)
        table |= {f"delay_p50@{budget:g}": float(p50), f"delay_p90@{budget:g}": float(p90)}
    return table


def _rows(events: Sequence[Event], n: int, after: int = 0) -> NDArray[np.bool_]:
    mask = np.zeros(n, np.bool_)
    for event in events:
        mask[event.start : event.stop + after] = True
    return mask


def _delay(alert: NDArray[np.bool_], event: Event) -> int | None:
    hits = np.flatnonzero(alert[event.start : event.stop + TOLERANCE])
    return int(hits[0]) if len(hits) else None


def threshold_at(score: NDArray[np.float64], normal: NDArray[np.bool_], budget: float) -> float:
    """The lowest threshold that makes no more than `budget` false alarms per 100,000 normal ticks.

    Alarms COOL_DOWN apart, counted from the first on, are as many as can be had, so a higher threshold never makes more.
    """
    allowed = int(budget * normal.sum() / 1e5)
    rows = np.flatnonzero(normal)
    levels = np.unique(score[rows])
    low, high = 0, len(levels)  # levels[high:] are low enough in alarms
    while low < high:
        middle = (low + high) // 2
        if count(rows[score[rows] >= levels[middle]], allowed) <= allowed:
            high = middle
        else:
            low = middle + 1
    return float(np.nextafter(levels[low - 1], np.inf)) if low else -np.inf


def average_precision(labels: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Sum of precision times gain in recall over all thresholds, equal scores together; `labels` bool [N], some true."""
    hits, rows = _ranked(labels, score)
    return float(np.sum(np.diff(hits, prepend=0) * hits / rows) / hits[-1])


def precision_at(labels: NDArray[np.bool_], score: NDArray[np.float64]) -> list[float]:
    """The precision of the highest threshold that finds at least so many of the true rows, for each of RECALLS."""
    hits, rows = _ranked(labels, score)
    at = np.searchsorted(hits, np.ceil(np.array(RECALLS) * hits[-1] - 1e-9))
    return list((hits[at] / rows[at]).tolist())


def _ranked(labels: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """True rows among, and number of, the rows whose score reaches each distinct score, from the highest down."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)  # of each group of equal scores
    return np.cumsum(labels[order], dtype=np.intp)[last], last + 1


def vus(
    labels: NDArray[np.bool_], score: NDArray[np.float64], window: int, thresholds: int = 250
) -> tuple[float, float]:
    """Volume under the ROC surface and under the precision-recall surface, over buffers of 0 to `window` ticks.

    Paparrizos et al. (2022), "Volume under the surface", PVLDB 15(11), as in the authors' package `vus` 0.0.6 with its
    250 thresholds, but in time that grows with N + events x window rather than thresholds x window x N. `labels` bool
    [N] marks anomalies, some of them true and some false; `score` float64 [N]. The package itself asks for TensorFlow.
    """
    n = len(labels)
    edges = np.diff(labels.astype(np.int8), prepend=0, append=0)
    starts, lasts = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    ranked = np.sort(score)[::-1][np.linspace(0, n - 1, thresholds).astype(np.intp)]
    positives = np.searchsorted(np.sort(-score), -ranked, side="right")  # rows predicted at each threshold
    near = np.flatnonzero(_extended(n, starts, lasts, window))
    first = np.searchsorted(-ranked, -score[near])  # the first threshold that predicts the row
    certain = int(labels.sum())
    areas = np.zeros(2)
    for width in range(window + 1):
        weight = _extended(n, starts, lasts, width)[near]
        caught = np.cumsum(np.bincount(first, weight, thresholds))
        in_slopes = np.cumsum(np.bincount(first, weight * ~labels[near], thresholds))
        half = width // 2
        apart = np.r_[True, lasts[:-1] + half < starts[1:] - half]  # events whose buffers touch count as one
        reached = np.minimum.reduceat(
            np.where(weight > 0, first, thresholds - 1), np.searchsorted(near, starts[apart] - half)
        )
        existence = np.cumsum(np.bincount(reached, minlength=thresholds)) / apart.sum()
        real = certain + in_slopes / 2
        recall = np.r_[0.0, np.minimum(caught / real, 1.0) * existence]
        false_rate = np.r_[0.0, (positives - caught) / (n - real)]
        areas += (
            np.trapezoid(np.r_[recall, 1.0], np.r_[false_rate, 1.0]),
            np.diff(recall) @ (caught / positives),
        )
    roc, pr = areas / (window + 1)
    return float(roc), float(pr)


def _extended(n: int, starts: NDArray[np.intp], lasts: NDArray[np.intp], width: int) -> NDArray[np.float64]:
    """Labels float64 [n]: 1 in an event, falling by a square root over width // 2 ticks on both sides of it."""
    label = np.zeros(n)
    for away in range(1, width // 2 + 1):
        slope = np.sqrt(1.0 - away / width)
        label[starts[starts >= away] - away] += slope
        label[lasts[lasts < n - away] + away] += slope
    for start, last in zip(starts, lasts, strict=True):
        label[start : last + 1] = 1.0
    return np.minimum(label, 1.0)
