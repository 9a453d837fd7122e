"""A night, a weekend or a lunch break is no pause once its hours are known; a feed that stops at any other time is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.autoencoder import load
from service.breaks import BREAKS, HOUR
from service.features import (
    ALTERNATION,
    DRIFT,
    GAP,
    MEMORY,
    MID_RETURN,
    MOMENTUM,
    NO_PRIOR,
    OFF_QUOTE,
    PRICE_RUN,
    RETURN,
    SIZE_RUN,
    SPREAD,
    STATED,
    Features,
    features,
)
from service.judge import LASTING, OPENED, SPEED
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import CELLS, every, random_ticks, shipped

BURST = 30  # ticks, a second apart
DAY = (9.5, 12.75, 16.0)  # when those of a day begin


def trading(hours: list[float], burst: int = BURST) -> Ticks:
    """Ticks of one stream: bursts that begin at these hours since a midnight."""
    ticks = random_ticks(burst * len(hours), streams=1)
    begin = np.repeat([round(hour * HOUR) for hour in hours], burst)
    return replace(ticks, ts=begin + np.tile(np.arange(burst) * 10**9, len(hours)))


def days(*numbers: int) -> list[float]:
    return [24 * day + hour for day in numbers for hour in DAY]


def found(ticks: Ticks, memory: NDArray[np.void] | None = None) -> Features:
    return features(ticks, np.zeros(len(ticks), np.int64), np.zeros(1, MEMORY) if memory is None else memory, NO_PRIOR)


def breaks(hours: list[float]) -> list[bool]:
    """Of the pauses between bursts at these hours: which are taken for breaks."""
    return [bool(known) for known in np.isnan(found(trading(hours)).observed[BURST::BURST, GAP])]


def moved(ticks: Ticks, by: NDArray[np.float64]) -> Ticks:
    return replace(ticks, price=ticks.price + by, bid=ticks.bid + by, ask=ticks.ask + by)


def test_a_night_is_known_by_its_length_and_the_breaks_of_a_day_by_those_of_the_day_before() -> None:
    assert breaks(days(0, 1, 2)) == [False, False, *[True] * 6]


def test_a_weekend_is_a_night() -> None:
    assert breaks(days(0, 1, 4))[-3:] == [True, True, True]


@pytest.mark.parametrize(("late", "known"), [(1.0, True), (1.5, False), (-1.5, False), (-1.0, True)])
def test_a_night_that_begins_or_ends_at_another_time_is_a_pause(late: float, known: bool) -> None:
    week = days(0, 1, 2)
    assert breaks([*week[:-1], week[-1] + late, *days(3)])[8] is known
    assert breaks([*week, 3 * 24 + DAY[0] + late, *days(3)[1:]])[8] is known


def test_a_break_is_known_as_it_was_last() -> None:
    later_each_day = [24.0 * day + hour for day in range(5) for hour in (8 + day, 13.5, 19)]
    assert breaks(later_each_day)[2::3] == [True] * 4


def test_a_lunch_break_is_not_known_by_a_day_that_is_missing() -> None:
    day = (9, 12, 13, 16)
    assert breaks([*day, *(24 + hour for hour in day), 48 + 9, 48 + 12, 72 + 13])[-1] is False


def test_only_a_new_stream_has_its_first_night_to_come() -> None:
    assert breaks([0, 7, 20]) == [True, False]
    for day, known in ((5, True), (9, False)):
        always = [hour / 2 for hour in range(48 * day)]
        assert breaks([*always, always[-1] + 10])[-1] is known


@pytest.mark.parametrize("every_hours", [1 / 12, 1, 12, 24])
def test_a_stream_whose_ticks_are_always_that_far_apart_has_no_breaks(every_hours: float) -> None:
    slow = found(trading([every_hours * n for n in range(500)], burst=1))
    assert not np.isnan(slow.observed[1:, GAP]).any()


def test_a_pause_of_minutes_is_never_a_break() -> None:
    assert breaks([10, 10.05, 34, 34.05])[2] is False
    assert breaks([10, 10.07, 34, 34.07])[2] is True


def test_the_longest_pauses_are_kept_in_mind() -> None:
    assert BREAKS == 4
    day = [0.0, 1, 3, 6, 10, 15]
    assert breaks(day + [24 + hour for hour in day])[6:] == [False, False, True, True, True]


def test_a_short_pause_is_known_at_its_very_time_only() -> None:
    assert breaks([10, 10.5, 34.03, 34.53])[2] is True
    assert breaks([10, 10.5, 34.2, 34.7])[2] is False


@pytest.mark.parametrize(("day", "known"), [(7, True), (9, False)])
def test_a_pause_of_more_than_a_week_ago_is_forgotten(day: int, known: bool) -> None:
    hourly = [hour for hour in range(24 * day + 11) if hour != 11]
    assert breaks([*map(float, hourly), 24.0 * day + 12])[-1] is known


def test_a_pause_of_more_than_a_week_is_none_of_a_session() -> None:
    assert breaks([0, 7 * 24]) == [True]
    assert breaks([0, 9 * 24]) == [False]


def test_the_first_tick_after_a_break_is_compared_with_none_before_it() -> None:
    calm = trading(days(0, 1))
    opening = 3 * BURST
    jump = np.where(np.arange(len(calm)) < opening, 0.0, 5.0)
    new = found(moved(calm, jump))
    assert np.isnan(new.observed[opening, [RETURN, MID_RETURN, MOMENTUM, GAP, PRICE_RUN]]).all()
    assert np.isfinite(new.observed[opening, SPREAD])
    np.testing.assert_allclose(new.observed[opening:], found(calm).observed[opening:], atol=0.1)


def test_what_a_session_showed_last_is_forgotten_and_what_is_usual_is_not() -> None:
    ticks = trading(days(0, 1))
    opening = 3 * BURST
    size = np.where(np.arange(len(ticks)) < opening - 20, 100.0 + np.arange(len(ticks)), 700.0)
    middle = (ticks.bid + ticks.ask) / 2
    price = middle + np.where(np.arange(len(ticks)) % 2, 0.20, 0.21)  # far off the middle, as ever, and to and fro
    bid = np.where(np.isin(np.arange(len(ticks)) - opening, [*range(-16, 0), 1]), np.nan, ticks.bid)
    new = found(replace(ticks, price=price, size=size, bid=bid))
    assert np.abs(new.z[opening, [DRIFT, OFF_QUOTE]]).max() < 0.5
    assert abs(new.z[opening + 1, ALTERNATION]) < 0.5
    bids = 1 + STATED.index("bid")
    assert new.share[opening + 1, bids] == pytest.approx(15 / 16 * new.usual_share[opening, bids], abs=0.03)
    assert new.observed[opening - 1, SIZE_RUN] > 2
    assert new.observed[opening, SIZE_RUN] == 0


@pytest.mark.parametrize("cell", CELLS)
def test_a_jump_over_night_is_no_incident_and_one_over_an_unknown_pause_is(cell: str) -> None:
    def phases(hours: list[float]) -> NDArray[np.uint8]:
        ticks = trading(hours, burst=2000)
        jump = np.where(np.arange(len(ticks)) < len(ticks) - 2000, 0.0, 5.0)
        return Scorer(load(shipped(cell)), 20.0).score(moved(ticks, jump)).verdicts.phase[-2000:-1900]

    assert phases(days(0, 1)[:4]).max() == 0
    assert phases([*days(0), 24 + 9.5, 48 + 12])[0] == OPENED


@pytest.mark.parametrize("cell", CELLS)
def test_an_incident_ends_with_its_session(cell: str) -> None:
    ticks = trading(days(0, 1)[:4], burst=2000)
    jump = np.zeros(len(ticks))
    jump[5997:6000] = 200.0
    jump[6020:] = 5.0
    scored = Scorer(load(shipped(cell)), 20.0).score(moved(ticks, jump))
    said, x = scored.verdicts, scored.features.x[6000, LASTING]
    assert said.phase[5997] == said.phase[6020] == OPENED
    known = ~np.isnan(scored.features.z[6000, LASTING])
    np.testing.assert_allclose(said.trend[6000], SPEED * x, rtol=1e-5)
    np.testing.assert_allclose(said.misfit[6000], SPEED * known * (x - scored.expected[6000, LASTING]), rtol=1e-5)


@pytest.mark.parametrize(("rows", "strange"), [(6000, True), (6001, False)])
def test_a_session_learns_from_its_first_tick_on_though_the_last_one_ended_strangely(rows: int, strange: bool) -> None:
    ticks = trading(days(0, 1)[:4], burst=2000)
    jump = np.where(np.arange(len(ticks)) // 3 == 1999, 200.0, 0.0)
    scorer = Scorer(load(shipped("gru")), 20.0)
    scorer.score(moved(ticks, jump).take(np.arange(rows)))
    (judge,) = scorer.streams.judge[:1]
    assert (judge["strange"] > 0) == (judge["stir"] > 0) == strange


@given(st.lists(st.floats(0.0, 60.0), min_size=2, max_size=12), st.integers(1, 40))
def test_any_split_into_batches_gives_the_same_bits(pauses: list[float], step: int) -> None:
    ticks = trading(np.cumsum(pauses).tolist())
    memory = np.zeros(1, MEMORY)
    parts = [found(part, memory).z for part in every(ticks, step)]
    whole = found(ticks)
    assert np.array_equal(np.concatenate(parts), whole.z, equal_nan=True)
    assert np.isfinite(whole.x).all()
