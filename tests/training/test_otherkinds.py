"""The kinds of fault that the judge was not chosen by are what their names say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.ticks import Ticks
from tests.training.markets import market, only
from training.otherkinds import OTHER_KINDS

SHOWS: dict[str, Callable[[Ticks, Ticks], NDArray[np.bool_] | np.bool_ | bool]] = {
    "layering": lambda now, was: (now.bid_size > 2 * was.bid_size.max()) | (now.ask_size > 2 * was.ask_size.max()),
    "thin_book": lambda now, was: np.isclose(now.bid_size, 0.02 * was.bid_size, atol=1e-3),
    "one_side_stale": lambda now, was: (
        len(set(now.bid)) == 1 < len(set(was.bid)) or len(set(now.ask)) == 1 < len(set(was.ask))
    ),
    "swapped_sides": lambda now, was: (now.bid == was.ask) & (now.ask == was.bid) & (now.bid_size == was.ask_size),
    "lost_quotes": lambda now, was: (
        np.isnan(now.bid) & np.isnan(now.ask) & np.isnan(now.bid_size) & (now.price == was.price)
    ),
    "locked_quote": lambda now, was: now.bid == now.ask,
    "widening_spread": lambda now, was: 2.5 < (now.ask - now.bid)[-1] / (was.ask - was.bid)[-1] < 6.5,
    "wild_quote": lambda now, was: (now.bid != was.bid) ^ (now.ask != was.ask),
    "quote_stuffing": lambda now, was: (now.size == 0) & (now.ask > now.bid) & (np.ptp(now.ts) < 1e9),
    "lagging_price": lambda now, was: any(
        np.array_equal(now.price, market().price[was.partition - ago]) for ago in range(20, 80)
    ),
    "level_shift": lambda now, was: (abs(now.price - was.price) > 0.02) & (np.ptp(now.price - was.price) < 0.02),
    "coarse_price": lambda now, was: np.diff(np.unique(now.price)) > 4 * np.mean(was.ask - was.bid),
    "jitter": lambda now, was: np.std(now.price - was.price) > np.mean(was.ask - was.bid),
    "shuffled_prices": lambda now, was: np.sort(now.price) == np.sort(was.price),
    "momentum_ignition": lambda now, was: (now.size >= was.size) & (abs(now.price - was.price)[-1] > 0.02),
    "staircase": lambda now, was: len(set((now.price - was.price).round(2))) >= 3,
    "other_instrument": lambda now, was: np.isclose(now.price / was.price, (now.price / was.price)[0]),
    "oscillation": lambda now, was: np.ptp(np.sign((now.price - was.price).round(6))) == 2,
    "wild_run": lambda now, was: (now.bid == was.bid) & ((was.size == 0) | (abs(now.price - was.price) > 0.02)),
    "numb_market": lambda now, was: np.ptp(now.price) <= 0.1 * np.ptp(was.price) + 0.011,
    "lost_sizes": lambda now, was: np.isnan(now.size) | (was.size == 0),
    "lots_for_shares": lambda now, was: now.size == 100 * was.size,
    "equal_sizes": lambda now, was: len(set(now.size[was.size > 0])) == 1,
    "wash_trades": lambda now, was: (now.size == now.size[0]) & (now.size > 0) & (now.price == now.price[0]),
    "frozen_clock": lambda now, was: now.ts == now.ts[0],
    "batched_times": lambda now, was: len(set(now.ts)) <= len(now) / 10 + 1,
    "slow_ticks": lambda now, was: 7.9 < np.ptp(now.ts) / np.ptp(was.ts) < 20.1,
    "time_ahead": lambda now, was: (now.ts - was.ts >= 1e10) & (len(now) == 1),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_kind_is_what_its_name_says(kind: str) -> None:
    for _, now, was in only(kind):
        assert np.all(SHOWS[kind](now, was))
