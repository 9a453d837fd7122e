"""Metrics say what they promise: against published numbers, and on streams small enough to count by hand."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from service.errors import TickwatchError
from service.ticks import Ticks
from tests.samples import random_ticks
from training.alarms import COOL_DOWN, false_alarms
from training.evaluate import (
    RECALLS,
    TOLERANCE,
    Result,
    average_precision,
    by_kind,
    evaluate,
    overall,
    precision_at,
    threshold_at,
    vus,
)
from training.inject import Event, Injected

CLEAN = 1_000
EVENTS = [Event("flash_crash", 3_000, 3_100), Event("wild_print_5", 6_000, 6_001), Event("flash_crash", 9_000, 9_050)]
STREAM = Injected(random_ticks(20_000, streams=1), EVENTS, CLEAN)
SPANS = ((50, 5), (100, 1), (130, 40), (700, 1), (720, 3), (1500, 100), (1900, 60))


def labelled(seed: int, rows: int, decimals: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels at SPANS and scores that favour them a little."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rows, np.bool_)
    for start, length in SPANS:
        labels[start : start + length] = True
    return labels, np.round(rng.random(rows) + labels * rng.random(rows), decimals)


def alerts(*rows: int | range) -> NDArray[np.float64]:
    """Scores of STREAM, 1.0 at these rows and 0.0 elsewhere."""
    score = np.zeros(len(STREAM.ticks))
    for at in rows:
        score[list(at) if isinstance(at, range) else at] = 1.0
    return score


def result(*rows: int | range) -> Result:
    score = alerts(*rows)
    return evaluate(lambda _: score, STREAM, {20.0: 0.5})


@pytest.mark.parametrize(
    ("seed", "rows", "decimals", "window", "roc", "pr"),
    [  # RangeAUC_volume_opt(labels, score, window, 250) of the package vus 0.0.6
        (0, 2000, 16, 0, 0.7728219891308479, 0.5257841479101817),
        (0, 2000, 16, 10, 0.8345008072275342, 0.5852387113188767),
        (0, 2000, 16, 100, 0.9227497462089891, 0.7276347296139376),
        (1, 2000, 1, 0, 0.8153948618553566, 0.5015475754903052),
        (1, 2000, 1, 10, 0.8375039640962292, 0.5137434250573286),
        (1, 2000, 1, 100, 0.9109484342142675, 0.6381879937125791),
        (2, 5000, 16, 0, 0.799019073182509, 0.47878314520119214),
        (2, 5000, 16, 10, 0.8180959011794285, 0.4941842033646077),
        (2, 5000, 16, 100, 0.8942959710772339, 0.5747551906237811),
    ],
)
def test_vus_equals_the_authors_numbers(
    seed: int, rows: int, decimals: int, window: int, roc: float, pr: float
) -> None:
    labels, score = labelled(seed, rows, decimals)
    assert vus(labels, score, window) == pytest.approx((roc, pr), rel=1e-12)


def test_vus_of_a_long_stream_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(150_000, np.bool_)
    labels[np.arange(1_000, 150_000, 1_000)[:, None] + np.arange(50)] = True
    before = time.process_time()
    vus(labels, rng.random(len(labels)), 100)
    assert time.process_time() - before < 5


@pytest.mark.parametrize("decimals", [1, 3, 16])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_scikit_learns(seed: int, decimals: int) -> None:
    labels, score = labelled(seed, 3_000, decimals)
    assert average_precision(labels, score) == pytest.approx(average_precision_score(labels, score), rel=1e-12)


def test_the_precision_at_a_recall_is_that_of_scikit_learns_curve() -> None:
    labels, score = labelled(1, 3_000, 2)
    precision, recall, _ = precision_recall_curve(labels, score)
    for at, found in zip(RECALLS, precision_at(labels, score), strict=True):
        assert found == pytest.approx(precision[recall >= at - 1e-12][-1])


def test_a_sustained_false_alarm_counts_again_after_each_cool_down() -> None:
    normal = np.ones(10_000, np.bool_)
    alert = np.zeros(10_000, np.bool_)
    alert[100] = True
    assert false_alarms(alert, normal) == 10
    alert[100 : 100 + 4 * COOL_DOWN] = True
    assert false_alarms(alert, normal) == 40


def test_alerts_near_events_are_not_false_alarms() -> None:
    after = EVENTS[0].stop + TOLERANCE
    assert result(range(EVENTS[0].start, after)).realised == {20.0: 0.0}
    normal = 20_000 - CLEAN - sum(e.stop - e.start + TOLERANCE for e in EVENTS)
    assert result(after).realised[20.0] == pytest.approx(1e5 / normal)
    assert result(EVENTS[0].start - 1).realised[20.0] == pytest.approx(1e5 / normal)


def test_the_clean_head_is_not_judged() -> None:
    assert result(EVENTS[1].start) == result(EVENTS[1].start, range(CLEAN))


def test_the_threshold_at_a_budget_is_the_lowest_that_keeps_it() -> None:
    score = np.random.default_rng(0).random(50_000)
    normal = np.ones(50_000, np.bool_)
    normal[::7] = False
    for budget in (20.0, 100.0, 1000.0):
        threshold = threshold_at(score, normal, budget)
        assert false_alarms(score >= threshold, normal) <= budget
        assert false_alarms(score >= np.nextafter(threshold, -np.inf), normal) > budget


def test_a_threshold_that_no_score_breaks_is_below_them_all() -> None:
    assert threshold_at(np.zeros(50), np.ones(50, np.bool_), 1e5) == -np.inf


def test_an_event_is_caught_from_its_start_to_the_tolerance_after_its_end() -> None:
    first = EVENTS[0]
    assert result(first.start, EVENTS[1].start).delays[20] == [0, 0, None]
    assert result(first.stop + TOLERANCE - 1).delays[20] == [first.stop + TOLERANCE - 1 - first.start, None, None]
    assert result(first.stop + TOLERANCE).delays[20] == [None, None, None]


def test_more_false_alarms_allowed_means_more_events_caught() -> None:
    score = alerts(*range(15_000, 15_000 + 10 * COOL_DOWN, COOL_DOWN))  # ten false alarms, above every event
    score[[e.start for e in EVENTS]] = 0.5
    found = evaluate(lambda _: score, STREAM, budgets=(20.0, 100.0))
    assert found.delays == {20.0: [None, None, None], 100.0: [0, 0, 0]}
    assert found.realised == {}


def test_a_perfect_detector_gets_full_marks() -> None:
    found = result(*(range(e.start, e.stop) for e in EVENTS))
    assert found.ap == 1.0
    assert set(found.ap_by_kind.values()) == {1.0}
    assert found.delays == {20.0: [0, 0, 0], 100.0: [0, 0, 0]}
    assert found.vus_roc > 0.9


def test_a_constant_score_finds_nothing() -> None:
    found = result()
    assert found.delays[100] == [None, None, None]
    assert found.ap == pytest.approx(151 / 19_000)


def test_another_kinds_events_do_not_spoil_the_precision_of_a_kind() -> None:
    found = result(*(range(e.start, e.stop) for e in EVENTS))
    only_crashes = result(range(3_000, 3_100), range(9_000, 9_050))
    assert only_crashes.ap_by_kind["flash_crash"] == found.ap_by_kind["flash_crash"] == 1.0
    assert only_crashes.ap_by_kind["wild_print_5"] < 0.01


def test_recall_is_the_mean_over_streams_and_by_kind_over_events() -> None:
    both = [result(EVENTS[0].start + 7, EVENTS[1].start), result()]
    table = overall(both)
    assert table["recall@20"] == pytest.approx(1 / 3)
    assert (table["delay_p50@20"], table["delay_p90@20"]) == pytest.approx((3.5, 6.3))
    kinds = by_kind(both)
    assert kinds["flash_crash"]["recall@20"] == 0.25
    assert kinds["flash_crash"]["events"] == 4
    assert kinds["wild_print_5"]["recall@100"] == 0.5
    assert np.isnan(by_kind([result()])["flash_crash"]["delay_p50@20"])


@pytest.mark.parametrize("score", [np.zeros(7), np.full(len(STREAM.ticks), np.nan), np.full(len(STREAM.ticks), np.inf)])
def test_scores_that_cannot_be_ranked_are_refused(score: NDArray[np.float64]) -> None:
    with pytest.raises(TickwatchError, match="one finite score per tick"):
        evaluate(lambda _: score, STREAM)


def test_a_stream_without_events_cannot_be_evaluated() -> None:
    def silent(ticks: Ticks) -> NDArray[np.float64]:
        return np.zeros(len(ticks))

    with pytest.raises(TickwatchError, match="holds no injected event"):
        evaluate(silent, replace(STREAM, events=[]))
