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
from service.features import GAP, MEMORY, MID_RETURN, MOMENTUM, NO_PRIOR, PRICE_RUN, RETURN, SPREAD, Features, features
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


def test_a_night_is_known_by_its_length_and_the_breaks_of_a_day_by_those_of_the_day_before() -> None:
    assert breaks(days(0, 1, 2)) == [False, False, *[True] * 6]


def test_a_weekend_is_a_night() -> None:
    assert breaks(days(0, 1, 4))[-3:] == [True, True, True]


@pytest.mark.parametrize(("late", "known"), [(0.4, True), (0.6, False), (-0.6, False), (-0.4, True)])
def test_a_night_that_begins_or_ends_at_another_time_is_a_pause(late: float, known: bool) -> None:
    week = days(0, 1, 2)
    assert breaks([*week[:-1], week[-1] + late, *days(3)])[8] is known
    assert breaks([*week, 3 * 24 + DAY[0] + late, *days(3)[1:]])[8] is known


def test_only_the_first_night_is_known_by_its_length() -> None:
    assert breaks([0, 7, 20]) == [True, False]


def test_what_came_at_these_hours_on_the_same_day_was_no_break() -> None:
    assert breaks([0, 1, 2, 3]) == [False] * 3


def test_a_pause_of_minutes_is_never_a_break() -> None:
    assert breaks([10, 10.05, 34, 34.05])[2] is False
    assert breaks([10, 10.07, 34, 34.07])[2] is True


def test_the_longest_pauses_are_kept_in_mind() -> None:
    assert BREAKS == 4
    day = [0.0, 1, 3, 6, 10, 15]
    assert breaks(day + [24 + hour for hour in day])[6:] == [False, False, True, True, True]


def test_pauses_of_more_than_a_week_ago_make_way_and_such_pauses_are_none() -> None:
    assert breaks([0, 9 * 24]) == [False]
    often = [10.0, 12.0] + [24.0 * day + hour for day in range(1, 10) for hour in range(0, 24, 4)]
    assert breaks([*often, 10 * 24 + 10, 10 * 24 + 12])[-1] is False


def test_the_first_tick_after_a_break_is_compared_with_none_before_it() -> None:
    calm = trading(days(0, 1))
    opening = 3 * BURST
    jump = np.where(np.arange(len(calm)) < opening, 0.0, 5.0)
    jumped = replace(calm, price=calm.price + jump, bid=calm.bid + jump, ask=calm.ask + jump)
    new = found(jumped)
    assert np.isnan(new.observed[opening, [RETURN, MID_RETURN, MOMENTUM, GAP, PRICE_RUN]]).all()
    assert np.isfinite(new.observed[opening, SPREAD])
    np.testing.assert_allclose(new.observed[opening:], found(calm).observed[opening:], atol=0.1)


@pytest.mark.parametrize("cell", CELLS)
def test_a_jump_over_night_is_no_incident_and_one_over_an_unknown_pause_is(cell: str) -> None:
    model = load(shipped(cell))

    def phases(hours: list[float]) -> NDArray[np.uint8]:
        ticks = trading(hours, burst=2000)
        jump = np.where(np.arange(len(ticks)) < len(ticks) - 2000, 0.0, 5.0)
        ticks = replace(ticks, price=ticks.price + jump, bid=ticks.bid + jump, ask=ticks.ask + jump)
        return Scorer(model, 20.0).score(ticks).verdicts.phase[-2000:-1900]

    assert phases(days(0, 1)[:4]).max() == 0
    assert phases([*days(0), 24 + 9.5, 48 + 9.5])[0] == 1


@given(st.lists(st.floats(0.0, 60.0), min_size=2, max_size=12), st.integers(1, 40))
def test_any_split_into_batches_gives_the_same_bits(pauses: list[float], step: int) -> None:
    ticks = trading(np.cumsum(pauses).tolist())
    memory = np.zeros(1, MEMORY)
    parts = [found(part, memory).z for part in every(ticks, step)]
    whole = found(ticks)
    assert np.array_equal(np.concatenate(parts), whole.z, equal_nan=True)
    assert np.isfinite(whole.x).all()
