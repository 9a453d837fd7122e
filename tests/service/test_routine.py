"""What comes at the same time of every day is told once; what is not as it was then is told as ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from service.autoencoder import load
from service.breaks import DAY, HOUR
from service.features import MOMENTUM, SIZE, SPREAD, F
from service.judge import QUIET, REPLAY, STIR, C
from service.routine import LONGEST, ORDINARY, ROUTINES, UNIQUE, WITHIN
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import CELLS, random_ticks, shipped
from tests.service.test_judge import judged

MINUTE = HOUR // 60
OLD = 6000  # ticks before the first day: a new stream's scores lack something
FIXING = 1000  # tick of a day
LOW, HIGH = 4.5, 6.0  # deviations; both stir
USUAL = pytest.approx(ORDINARY, abs=0.15)
Strange = tuple[float, int, float]  # hours since the first midnight, feature, deviations


def scores(strange: list[Strange], apart: int = MINUTE) -> NDArray[np.float64]:
    """The scores of a stream's strange ticks, given in order; all others are average ones and that far apart."""
    at = np.array([OLD + round(hour * HOUR / apart) for hour, _, _ in strange])
    z = np.zeros((at.max() + QUIET + 2, F), np.float32)
    z[at, [feature for _, feature, _ in strange]] = [size for _, _, size in strange]
    ts = 1000 * DAY + apart * (np.arange(len(z)) - OLD)
    score: NDArray[np.float64] = judged(z, ts=ts).score[at]
    return score


def test_what_stirs_every_day_is_told_on_the_first() -> None:
    told = scores([(24.0 * day + 17, SPREAD, HIGH) for day in range(5)])
    assert told[0] > STIR
    assert told[1:] == USUAL


@pytest.mark.parametrize(
    ("hours", "feature", "known"),
    [
        (24, SPREAD, True),
        (72, SPREAD, True),  # a weekend later
        (24, MOMENTUM, False),
        (24 + 4 / 60, SPREAD, True),
        (24 - 4 / 60, SPREAD, True),
        (24 + 6 / 60, SPREAD, False),
        (24 - 6 / 60, SPREAD, False),
        (4, SPREAD, False),
        (7 * 24, SPREAD, True),
        (9 * 24, SPREAD, False),  # forgotten
    ],
)
@pytest.mark.parametrize("hour", [10.0, 23.98])
def test_a_stir_is_known_by_its_feature_and_its_time_of_day(
    hour: float, hours: float, feature: int, known: bool
) -> None:
    first, again = scores([(hour, SPREAD, HIGH), (hour + hours, feature, LOW)])
    assert first > STIR
    assert bool(again == USUAL) is known
    assert known or again > STIR


def test_what_exceeds_the_day_before_counts_by_that() -> None:
    low, high = scores([(10, SPREAD, LOW), (35, SPREAD, HIGH)])
    assert scores([(10, SPREAD, LOW), (34, SPREAD, HIGH)])[1] == pytest.approx(high - low + ORDINARY, abs=0.02)


def test_a_score_falls_slowly_out_of_mind() -> None:
    days = [HIGH, LOW, (LOW + HIGH) / 2, *[LOW] * 4, HIGH]
    told = scores([(24.0 * day + 10, SPREAD, size) for day, size in enumerate(days)])
    assert told[1:-1] == USUAL
    assert told[-1] > ORDINARY + 0.5


def test_of_two_records_the_higher_counts() -> None:
    day = [(10.0, SPREAD, HIGH), (10.14, SPREAD, LOW)]
    assert scores([*day, (34.07, SPREAD, HIGH - 0.5)], apart=MINUTE // 15)[2] == USUAL


def test_a_stir_has_no_features_of_the_one_before() -> None:
    assert scores([(10, SPREAD, HIGH), (14, SIZE, HIGH), (38, SPREAD, LOW)])[2] > STIR


def test_a_stir_of_many_ticks_is_known_from_first_to_last_by_each_of_its_features() -> None:
    day = [(10.0, MOMENTUM, HIGH), (10.25, SPREAD, HIGH), (10.5, SIZE, LOW)]
    told = scores([*day, (34.0, SIZE, LOW), (34.3, MOMENTUM, LOW), (34.5, SPREAD, LOW)], apart=MINUTE // 2)
    assert told[:3].min() > STIR
    assert told[3:] == USUAL


def test_the_features_of_all_stirs_of_a_day_are_known() -> None:
    day = [(10.0, MOMENTUM, HIGH), (10.01, SPREAD, HIGH), (10.088, SPREAD, HIGH)]
    assert scores([*day, (34.05, MOMENTUM, LOW)], apart=MINUTE // 15)[-1] == USUAL


def test_the_features_of_all_days_are_known() -> None:
    told = scores([(10, SPREAD, HIGH), (10.5, SIZE, HIGH), (34.25, SPREAD, LOW), (58.25, SIZE, LOW)], apart=MINUTE // 2)
    assert told[2:] == USUAL


@pytest.mark.parametrize(("lasts", "known"), [(0.9, True), (1.1, False)])
def test_what_lasts_has_no_time_of_day(lasts: float, known: bool) -> None:
    assert LONGEST == HOUR
    told = scores([(10.0, SPREAD, HIGH), (10 + lasts, SPREAD, HIGH), (34.0, SPREAD, HIGH)], apart=2 * MINUTE)
    assert bool(told[2] == USUAL) is known


def test_no_stir_is_known_by_one_of_the_same_day_and_the_next_day_knows_both() -> None:
    apart = MINUTE // 30
    later = 10 + 2 * QUIET * apart / HOUR
    assert later * HOUR < 10 * HOUR + WITHIN
    told = scores([(10, SPREAD, HIGH), (later, SPREAD, HIGH), (later + 24.08, SPREAD, HIGH)], apart)
    assert told[:2].min() > STIR
    assert told[2] == USUAL
    told = scores([(10, SPREAD, HIGH), (later, SPREAD, HIGH), (33.94, SPREAD, LOW), (24 + later, SPREAD, LOW)], apart)
    assert told[2:] == USUAL


def test_the_end_of_a_session_ends_a_stir() -> None:
    day = 100
    z = np.zeros((OLD + 3 * day, F), np.float32)
    z[OLD + np.array([day - 1, day + 2, 2 * day - 1]), SPREAD] = HIGH
    ts = 1000 * DAY + MINUTE * (np.arange(len(z)) - OLD)
    for k in (1, 2):
        ts[OLD + k * day :] += DAY - day * MINUTE
    score = judged(z, ts=ts, opening=OLD + day * np.arange(1, 3)).score
    assert score[OLD + day - 1] > STIR
    assert score[OLD + 2 * day - 1] == USUAL


def test_what_is_daily_is_known_as_it_was_before_today() -> None:
    fixing = [(10, SPREAD, HIGH), (34, SPREAD, HIGH)]
    told = scores([*fixing, *((34 + k * 0.075, SPREAD, LOW) for k in range(1, 14))], apart=MINUTE // 15)
    assert told[2] == USUAL  # 4.5 minutes later
    assert told[3:].min() > STIR


def test_a_day_that_begins_mildly_is_measured_against_the_whole_of_the_day_before() -> None:
    days = [(24.0 * day + hour, SPREAD, size) for day in range(3) for hour, size in ((10, LOW), (10.1, 2 * HIGH))]
    told = scores(days, apart=MINUTE // 15)
    assert told[1] > 2 * STIR
    assert told[2:] == pytest.approx(ORDINARY, abs=0.4)


def test_what_goes_on_with_pauses_is_known_from_first_to_last() -> None:
    first = [(10 + 0.08 * k, SPREAD, HIGH) for k in range(17)]  # 77 minutes
    told = scores([*first, (34.9, SPREAD, LOW), (35.2, SPREAD, LOW)], apart=MINUTE // 15)
    assert told[:17].min() > STIR
    assert told[17:] == USUAL


@pytest.mark.parametrize("again", [[34.0], [33.8, 34.0], [34.0, 34.2], [33.8, 34.2]])
def test_what_comes_daily_stays_on_record_whatever_else_happens_once(again: list[float]) -> None:
    twice = [(10.0, SPREAD, LOW), *((hour, SPREAD, LOW) for hour in again)]
    once = [(36.0 + 1.3 * k, SIZE, 2 * HIGH) for k in range(ROUTINES + 4)]
    told = scores([*twice, *once, (58, SPREAD, LOW)], apart=MINUTE // 2)
    assert told[-1] == USUAL
    assert told[len(twice) : -1].min() > STIR


def test_what_comes_twice_today_stays_on_record_by_the_window_of_the_day_before() -> None:
    minutes = [0.0, 4.5, 24 * 60 - 4, 24 * 60 + 5]
    once = [(36 + 1.3 * k, SIZE, 2 * HIGH) for k in range(ROUTINES + 4)]
    told = scores(
        [*((10 + m / 60, SPREAD, LOW) for m in minutes), *once, (58 + 9 / 60, SPREAD, LOW)], apart=MINUTE // 15
    )
    assert told[-1] == USUAL


def test_a_record_is_as_it_was_last() -> None:
    told = scores([(24.0 * day + 10 + m / 60, SPREAD, LOW) for day, m in enumerate([0, 4, -2, 8])], apart=MINUTE // 2)
    assert told[1] == USUAL
    assert told[2] > STIR
    assert told[3] == USUAL


@pytest.mark.parametrize(("day", "known"), [(7, False), (11, True)])
def test_what_came_daily_gives_way_once_it_is_forgotten(day: int, known: bool) -> None:
    daily = [(24.0 * day + 1.5 * k, SIZE, 2 * HIGH) for day in (0, 1) for k in range(ROUTINES)]
    told = scores([*daily, (24.0 * day + 20, SPREAD, LOW), (24.0 * day + 44, SPREAD, LOW)], apart=MINUTE // 2)
    assert bool(told[-1] == USUAL) is known


def test_the_least_of_what_came_once_gives_way() -> None:
    sizes = [2 * HIGH, 2 * HIGH, LOW, *[2 * HIGH] * (ROUTINES - 2)]
    days = [(24 * day + 1.5 * k, SIZE, size) for day in (0, 1) for k, size in enumerate(sizes)]
    known = np.isclose(scores(days, apart=MINUTE // 2)[len(sizes) :], ORDINARY, atol=0.15)
    assert known.tolist() == [size != LOW for size in sizes]


@pytest.mark.parametrize(("hours", "known"), [(20, False), (UNIQUE / HOUR + 14, True)])
def test_what_never_came_again_gives_way_to_anything(hours: float, known: bool) -> None:
    full = [(1.5 * k, SIZE, 2 * HIGH) for k in range(ROUTINES)]
    told = scores([*full, (hours, SPREAD, LOW), (hours + 24, SPREAD, LOW)], apart=MINUTE // 2)
    assert bool(told[-1] == USUAL) is known


@pytest.mark.parametrize(("feature", "size"), [(SIZE, LOW), (SPREAD, 1.3 * HIGH)])
def test_a_new_record_has_nothing_of_the_one_that_gave_way(feature: int, size: float) -> None:
    full = [(1.5 * k, SIZE, 4 * HIGH) for k in range(ROUTINES)]
    told = scores([*full, (49, SPREAD, LOW), (73, feature, size)], apart=MINUTE // 2)
    assert told[-1] > STIR


def test_a_clock_that_is_set_back_leaves_no_record_of_days_to_come() -> None:
    z = np.zeros((OLD + 6000, F), np.float32)
    full = OLD + 150 * np.arange(ROUTINES)
    at = OLD + np.array([600, 3000, 3000 + 1440])
    z[full, SIZE] = 2 * HIGH
    z[at, SPREAD] = LOW
    ts = 1000 * DAY + MINUTE * (np.arange(len(z)) - OLD)
    ts[OLD + 1500 :] += (600 - 3000) * MINUTE - 5 * DAY
    told = judged(z, ts=ts).score[at]
    assert told[1] > STIR
    assert told[2] == USUAL


def test_a_clock_that_is_set_back_to_before_a_record_learns_it_anew() -> None:
    z = np.zeros((OLD + 6000, F), np.float32)
    at = OLD + np.array([600, 3000, 3000 + 1440])
    z[at, SPREAD] = LOW
    ts = 1000 * DAY + MINUTE * (np.arange(len(z)) - OLD)
    ts[OLD + 1500 :] += (600 - 3000) * MINUTE - 5 * DAY
    told = judged(z, ts=ts).score[at]
    assert told[:2].min() > STIR
    assert told[2] == USUAL


def test_a_late_tick_is_as_late_as_it_is() -> None:
    calm, late = np.zeros((OLD + 3000, F), np.float32), np.zeros(OLD + 3000, np.float32)
    at = OLD + 600 + 1440
    late[at] = 40.0
    strange = calm.copy()
    strange[[OLD + 600, at - 1], SPREAD] = HIGH
    ts = 1000 * DAY + MINUTE * (np.arange(len(calm)) - OLD)
    score, alone = judged(strange, lateness=late, ts=ts).score, judged(calm, lateness=late, ts=ts).score
    assert score[OLD + 600] > STIR
    assert score[at - 1] == USUAL
    assert score[at] == pytest.approx(alone[at])
    assert score[at] > 2 * STIR


def test_there_is_a_bit_for_each_feature() -> None:
    assert F + C - REPLAY <= 32


def fixings(days: int, trades: int = 1500) -> Ticks:
    """A stream that trades for six hours a day; at the same time of each its spread is thirty times as wide for five ticks."""
    ticks = random_ticks(days * trades, streams=1)
    ts = np.tile(np.linspace(10 * HOUR, 16 * HOUR, trades).astype(np.int64), days)
    ts += np.repeat(np.arange(1000, 1000 + days) * DAY, trades)
    wide = np.tile(np.arange(trades) // 5 == FIXING // 5, days) * 0.6
    return replace(ticks, ts=ts, bid=ticks.bid - wide, ask=ticks.ask + wide)


@pytest.mark.parametrize("cell", CELLS)
def test_a_daily_fixing_is_told_once(cell: str) -> None:
    verdicts = Scorer(load(shipped(cell)), 20.0).score(fixings(7)).verdicts
    told = verdicts.alert.reshape(7, -1)[:, FIXING : FIXING + 5].any(axis=1)
    assert told.tolist() == [True, *[False] * 6]
