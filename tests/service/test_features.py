"""Features are causal, scale-free, finite for any ticks, and a wild print does not become the reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.features import (
    BOOK_RUN,
    CLIP,
    DEPTH,
    FEATURES,
    MEMORY,
    MID_MOVES,
    NO_PRIOR,
    OFF_QUOTE,
    QUOTE_RUN,
    SET_BACK,
    SPREAD,
    STATED,
    TIME_RUN,
    F,
    Features,
    features,
    offline,
)
from service.grid import GRID
from service.ticks import NO_SEQ, Ticks
from tests.samples import every, random_ticks, with_numbers

ONE = random_ticks(3000, streams=1)


def run(ticks: Ticks, memory: NDArray[np.void] | None = None) -> Features:
    table = np.zeros(1, MEMORY) if memory is None else memory
    return features(ticks, np.zeros(len(ticks), np.int64), table, NO_PRIOR)


def same(a: Features, b: Features) -> bool:
    return all(
        np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True)
        for n in ("z", "observed", "lateness", "repeats", "pause", "replay", "share", "usual_share")
    )


@pytest.mark.parametrize("step", [1, 7, 512])
def test_any_split_into_batches_gives_the_same_bits(step: int) -> None:
    ticks = ONE.take(np.arange(1200))
    memory = np.zeros(1, MEMORY)
    parts = [run(part, memory) for part in every(ticks, step)]
    whole = run(ticks)
    assert np.array_equal(np.concatenate([p.z for p in parts]), whole.z, equal_nan=True)
    assert np.array_equal(np.concatenate([p.std for p in parts]), whole.std, equal_nan=True)


def test_a_feature_never_looks_ahead() -> None:
    whole = run(ONE)
    for n in (1, 50, 1777):
        assert np.array_equal(run(ONE.take(np.arange(n))).z, whole.z[:n], equal_nan=True)


@pytest.mark.parametrize("scale", [2.0**-20, 1024.0])
def test_prices_in_another_unit_give_the_same_features(scale: float) -> None:
    scaled = replace(ONE, price=ONE.price * scale, bid=ONE.bid * scale, ask=ONE.ask * scale)
    np.testing.assert_allclose(run(scaled).observed, run(ONE).observed, atol=1e-4)


def test_negative_prices_give_the_features_of_positive_ones() -> None:
    shifted = replace(ONE, price=ONE.price - 128.0, bid=ONE.bid - 128.0, ask=ONE.ask - 128.0)
    assert (shifted.price < 0).any()
    np.testing.assert_allclose(run(shifted).observed, run(ONE).observed, atol=1e-3)


def test_missing_quotes_and_sizes_are_missing_features_and_nothing_else() -> None:
    blank = np.full(len(ONE), np.nan)
    bare = replace(ONE, size=blank, bid=blank, ask=blank, bid_size=blank, ask_size=blank)
    found = run(bare)
    known = {FEATURES[i] for i in np.flatnonzero(~np.isnan(found.z[10:]).all(axis=0))}
    assert known == {"return", "spike", "momentum", "volatility", "gap", "rate", "price_run", "alternation", "time_run"}
    assert np.isfinite(found.x).all()


def test_a_wild_print_stands_out_and_is_forgotten() -> None:
    at = 2000
    wild = run(with_numbers(ONE, at, price=ONE.price[at] * 10))
    calm = run(ONE)
    assert np.nanmax(np.abs(wild.z[at])) > 2 * np.nanmax(np.abs(calm.z[:at]))
    later = slice(at + 200, None)
    apart = np.abs(np.nan_to_num(wild.z[later] - calm.z[later]))
    assert np.quantile(apart, 0.99) < 0.5


def test_a_late_tick_is_measured_and_moves_nothing() -> None:
    at = 1000
    late = ONE.ts.copy()
    late[at] = ONE.ts[at - 1] - 2_000_000_000
    found = run(replace(ONE, ts=late))
    assert found.lateness[at] == pytest.approx(np.log1p(2e6), rel=1e-4)
    assert np.isnan(found.z[at]).all()
    rest = np.delete(np.arange(len(ONE)), at)
    without = run(ONE.take(rest))
    assert np.array_equal(found.z[rest], without.z, equal_nan=True)
    assert len(offline(replace(ONE, ts=late))) == len(ONE) - 1


@pytest.mark.parametrize("late", [SET_BACK, SET_BACK + 1])
def test_a_clock_that_was_set_back_is_followed_after_some_ticks_and_late_ones_before_that_move_nothing(
    late: int,
) -> None:
    at = 1000
    ts = ONE.ts.copy()
    ts[at : at + late] -= 3600 * 10**9
    found = run(replace(ONE, ts=ts))
    assert not found.folded[at : at + SET_BACK].any()
    if late == SET_BACK:
        rest = np.delete(np.arange(len(ONE)), np.s_[at : at + late])
        assert np.array_equal(found.z[rest], run(ONE.take(rest)).z, equal_nan=True)
    else:
        adopted, back = at + SET_BACK, at + SET_BACK + 1
        assert found.folded[adopted:].all()
        usual = np.diff(ONE.ts[:at]).mean()
        assert found.pause[adopted] == pytest.approx((ts[adopted] - ts[adopted - 1]) / usual, rel=0.2)
        assert found.pause[back] == pytest.approx(3600e9 / usual, rel=0.2)


@pytest.mark.parametrize("ahead", [0.5, 86_400])  # half a gap is two ticks that changed places
def test_a_time_ahead_makes_one_tick_late_and_blinds_no_stream_until_that_time_comes(ahead: float) -> None:
    at = 1000
    ts = ONE.ts.copy()
    ts[at] = ts[at + 1] + ahead * (ts[at + 2] - ts[at + 1])
    found = run(replace(ONE, ts=ts))
    assert np.flatnonzero(~found.folded).tolist() == [at + 1]
    usual = np.diff(ONE.ts[:at]).mean()
    if ahead > 1:
        assert found.pause[at + 2] == pytest.approx((ts[at + 2] - ts[at + 1]) / usual, rel=0.2)


def test_times_ahead_of_several_ticks_in_a_row_are_a_clock_that_was_set_back() -> None:
    ts = ONE.ts.copy()
    ts[1000:1003] += 86_400 * 10**9
    assert np.flatnonzero(~run(replace(ONE, ts=ts)).folded).tolist() == list(range(1003, 1003 + SET_BACK))


def test_late_ticks_that_come_between_others_or_in_no_order_set_no_clock_back() -> None:
    ts = ONE.ts.copy()
    ts[1000:1200:2] -= 3600 * 10**9
    ts[1500:1600] = ts[1500:1600][::-1] - 3600 * 10**9
    found = run(replace(ONE, ts=ts))
    assert not found.folded[1000:1200:2].any()
    assert found.folded[1001:1200:2].all()
    assert not found.folded[1500:1600].any()


def test_a_pause_is_measured_in_usual_gaps_and_a_long_one_hardly_changes_what_is_usual() -> None:
    at, silence = 2000, 3600 * 10**9
    ts = ONE.ts.copy()
    ts[at:] += silence
    found, calm = run(replace(ONE, ts=ts)), run(ONE)
    usual = np.diff(ONE.ts[:at]).mean()
    assert found.pause[at] == pytest.approx(silence / usual, rel=0.2)
    assert found.pause[at + 200 :] == pytest.approx(calm.pause[at + 200 :], rel=0.05)


@pytest.mark.parametrize("together", [2, 30, 500])
def test_a_clock_that_moves_once_in_many_ticks_makes_no_pauses(together: int) -> None:
    coarse = run(replace(ONE, ts=ONE.ts[0] + 10**9 * (np.arange(len(ONE)) // together)))
    moves = np.arange(together, len(ONE), together)
    assert coarse.pause[moves] == pytest.approx(1.0, rel=0.01)
    late = ONE.ts[0] + 10**9 * (np.arange(len(ONE)) // together + 100 * (np.arange(len(ONE)) >= moves[-1]))
    assert run(replace(ONE, ts=late)).pause[moves[-1]] == pytest.approx(101.0, rel=0.01)


@pytest.mark.parametrize("lag", [100, 1000])
def test_a_block_of_ticks_that_comes_again_at_another_time_is_a_replay(lag: int) -> None:
    at, block = 2000, 80
    order = np.r_[:at, at - lag : at - lag + block, at : len(ONE)]
    ts = ONE.ts[0] + 10**9 * np.arange(len(order))
    found = run(replace(ONE.take(order), ts=ts))
    assert found.replay[found.replay > 0][0] == 1.0
    assert found.replay[at : at + block].max() > 1
    assert np.delete(found.replay, np.arange(at, at + block + 48)).max() < 0.5
    assert positions(found) == []


def test_short_replays_of_the_last_few_thousand_ticks_are_known_and_hardly_anything_else_is() -> None:
    ticks, block, every = random_ticks(40_000, streams=1, seed=4), 30, 200
    rng = np.random.default_rng(4)
    ats = np.arange(4_000, len(ticks), every)
    blocks = [
        np.arange(at - lag, at - lag + block) for at, lag in zip(ats, rng.integers(block, 3_500, len(ats)), strict=True)
    ]
    order = np.concatenate(
        [np.arange(4_000), *(np.r_[b, np.arange(at, at + every)] for at, b in zip(ats, blocks, strict=True))]
    )
    found = run(replace(ticks.take(order), ts=ticks.ts[0] + 10**9 * np.arange(len(order))))
    met = np.diff(found.replay, prepend=0) > 0
    starts = 4_000 + (every + block) * np.arange(len(ats))
    during = (starts[:, None] + np.arange(block)).ravel()
    assert met[during].reshape(-1, block).any(axis=1).mean() > 0.9
    assert not np.delete(met, during).any()


def test_a_feed_that_stands_still_is_no_replay() -> None:
    still = ONE.take(np.zeros(2000, np.intp))
    assert run(replace(still, ts=ONE.ts[0] + 10**9 * np.arange(2000))).replay.max() == 0


def test_a_quote_that_swings_between_two_prices_is_no_replay() -> None:
    swings = ONE.take(np.arange(2000) % 2)
    assert run(replace(swings, ts=ONE.ts[0] + 10**9 * np.arange(2000))).replay.max() == 0


@pytest.mark.parametrize("field", STATED)
def test_the_shares_of_trades_and_of_each_field_follow_the_last_ticks_and_the_usual_ones_thousands(field: str) -> None:
    at, gone = 2000, 40
    full = replace(ONE, size=np.where(np.arange(len(ONE)) % 4 == 0, 100.0, 0.0), bid_size=ONE.price, ask_size=ONE.price)
    there = np.where((np.arange(len(ONE)) < at) | (np.arange(len(ONE)) >= at + gone), 1.0, np.nan)
    found = run(replace(full, **{field: getattr(full, field) * there}))
    assert found.usual_share[at - 1] == pytest.approx([0.25, 1.0, 1.0, 1.0, 1.0, 1.0], rel=1e-3)
    column = 1 + STATED.index(field)
    left = (15 / 16) ** gone
    lately = np.full(1 + len(STATED), np.nan)
    lately[0] = left / 4 if field == "size" else 0.25  # the last one is no trade either
    lately[column] = left
    np.testing.assert_allclose(found.share[at + gone - 1], lately, atol=0.05)
    assert found.usual_share[at + gone - 1, column] == pytest.approx(at / (at + gone), rel=1e-3)
    late = ONE.ts.copy()
    late[at] = 0
    assert np.isnan(run(replace(ONE, ts=late)).share[at]).all()


def positions(found: Features) -> list[int]:
    return np.flatnonzero(found.repeats).tolist()


def test_a_tick_of_the_newest_time_that_came_before_is_a_repetition_and_moves_nothing() -> None:
    order = np.r_[0:1000, 999, 1000:3000]
    found = run(ONE.take(order))
    assert positions(found) == [1000]
    assert found.repeats[1000] == pytest.approx(math.log(16 / 15))
    assert np.array_equal(np.delete(found.z, 1000, axis=0), run(ONE).z, equal_nan=True)


def test_repetitions_in_a_row_count_alike_so_that_long_runs_are_no_worse_than_long() -> None:
    order = np.r_[0:1000, np.full(40, 999), 1000:3000]
    found = run(ONE.take(order)).repeats[1000:1040]
    assert np.diff(found) == pytest.approx(math.log(16 / 15), rel=1e-5)


@pytest.mark.parametrize(("several", "repeated"), [(8, [8, 9, 10, 11, 12, 13, 14, 15]), (9, [])])
def test_without_numbers_a_burst_of_one_time_is_recognised_up_to_eight_ticks(several: int, repeated: list[int]) -> None:
    burst = replace(ONE, ts=np.full(len(ONE), 7)).take(np.tile(np.arange(several), 2))
    assert positions(run(burst)) == repeated


def test_with_sequence_numbers_equal_ticks_are_new_and_different_ones_may_be_repetitions() -> None:
    same = ONE.take(np.zeros(4, np.intp))
    assert positions(run(same)) == [1, 2, 3]
    assert positions(run(replace(same, seq=np.array([5, 6, 6, 7])))) == [2]
    assert positions(run(replace(same, seq=np.array([5, 6, 4, 7]), price=np.arange(4.0)))) == [2]


def test_sequence_numbers_that_start_again_with_a_later_time_are_a_new_session() -> None:
    two = ONE.take(np.arange(4))
    found = run(replace(two, ts=np.array([1, 2, 3, 4]), seq=np.array([900, 901, 0, 1])))
    assert found.folded.all()


def test_a_crossed_quote_is_negative_and_a_wide_one_positive() -> None:
    at = 2500
    middle = ONE.price[at]
    crossed = run(with_numbers(ONE, at, bid=middle + 0.1, ask=middle - 0.1))
    wide = run(with_numbers(ONE, at, bid=middle - 0.2, ask=middle + 0.2))
    assert crossed.observed[at, SPREAD] < 0
    assert wide.z[at, SPREAD] > 3


def test_what_is_quoted_at_the_best_prices_is_the_depth() -> None:
    sized = replace(ONE, bid_size=np.full(len(ONE), 300.0), ask_size=np.full(len(ONE), 200.0))
    found = run(with_numbers(sized, 50, ask_size=9700.0)).observed[:, DEPTH]
    assert found[49:52] == pytest.approx(np.log([500, 10_000, 500]))
    assert np.isnan(run(with_numbers(sized, 50, bid_size=0.0, ask_size=0.0)).observed[50, DEPTH])


def test_a_book_stands_still_where_prices_and_sizes_do() -> None:
    rows = np.arange(len(ONE))
    still = replace(
        ONE,
        bid=np.full(len(ONE), 99.0),
        ask=np.full(len(ONE), 100.0),
        bid_size=(1 + rows // 10).astype(np.float64),
        ask_size=np.full(len(ONE), 5.0),
    )
    found = run(still).observed[1:]
    assert np.expm1(found[:, QUOTE_RUN]) == pytest.approx(rows[1:], rel=1e-4)
    assert np.expm1(found[:, BOOK_RUN]) == pytest.approx(rows[1:] % 10, abs=1e-4)


def test_ticks_of_one_time_are_counted() -> None:
    found = run(replace(ONE, ts=10**9 * (np.arange(len(ONE)) // 20))).observed[1:, TIME_RUN]
    assert np.exp(found) == pytest.approx(1 + np.arange(1, len(ONE)) % 20, rel=1e-4)


def test_quotes_that_move_while_the_price_does_not_are_counted_until_it_does() -> None:
    rows = np.arange(len(ONE))
    middle = (100 + rows // 3 % 2).astype(np.float64)
    price = (100 + rows // 30).astype(np.float64)
    still = replace(ONE, price=price, bid=middle - 1, ask=middle + 1)
    found = np.expm1(run(still).observed[1:, MID_MOVES])
    assert found == pytest.approx(rows[1:] % 30 // 3, abs=1e-4)
    seldom_quoted = replace(still, bid=np.where(rows % 30, still.bid, np.nan))
    found = np.expm1(run(seldom_quoted).observed[31:, MID_MOVES])
    assert found == pytest.approx(np.where(rows % 30, 1 + rows % 30 // 3, np.nan)[31:], abs=1e-4, nan_ok=True)


def test_trades_at_neither_bid_nor_ask_are_a_share_of_the_last_trades() -> None:
    rows = np.arange(len(ONE))
    price = np.where(rows < 2000, np.where(rows % 2, ONE.bid, ONE.ask), (ONE.bid + ONE.ask) / 2)
    traded = replace(ONE, price=price, size=np.full(len(ONE), 100.0))
    found = run(traded).observed[:, OFF_QUOTE]
    assert found[:2000] == pytest.approx(0.0)
    assert found[2000:2100] == pytest.approx(1 - (15 / 16) ** np.arange(1, 101), abs=1e-3)
    assert np.isnan(run(replace(traded, size=np.full(len(ONE), np.nan))).observed[:, OFF_QUOTE]).all()


def off_grid(ticks: Ticks) -> dict[int, tuple[str, int]]:
    """Tick -> the field whose value has more decimals than usual, and how many are."""
    found = run(ticks).off_grid
    return {i: (GRID[found[i, 0]], int(found[i, 1])) for i in np.flatnonzero(found[:, 0] >= 0).tolist()}


CENTS = replace(
    ONE, price=np.round(ONE.price, 2), size=np.round(ONE.size), bid=np.round(ONE.bid, 2), ask=np.round(ONE.ask, 2)
)


@pytest.mark.parametrize(("field", "value", "decimals"), [("price", 100.125, 2), ("size", 0.5, 0), ("ask", 100.001, 2)])
def test_a_value_with_more_decimals_than_its_field_has_is_off_the_grid(field: str, value: float, decimals: int) -> None:
    early = {i for i in off_grid(CENTS) if i >= 100}  # the first values still tell how many a field has
    assert not early
    assert off_grid(with_numbers(CENTS, 1500, **{field: value}))[1500] == (field, decimals)
    other_rounding = CENTS.price[1500] / 3 * 3 * (1 + 2**-52)
    assert other_rounding != CENTS.price[1500]
    assert 1500 not in off_grid(with_numbers(CENTS, 1500, price=other_rounding))


@pytest.mark.parametrize(("until", "left"), [(len(ONE), []), (1600, [2500])])
def test_a_finer_grid_is_taken_as_it_is_where_it_lasts_and_a_block_of_finer_values_is_not(
    until: int, left: list[int]
) -> None:
    rows = np.arange(len(ONE))
    price = np.where((rows < 1500) | (rows >= until), CENTS.price, np.round(CENTS.price + rows % 10 / 1000, 3))
    found = [i for i in off_grid(with_numbers(replace(CENTS, price=price), 2500, price=100.125)) if i >= 100]
    assert found[0] == 1501  # the first whose thousandths are not 0
    assert [i for i in found if i >= 1800] == left


def test_a_feed_without_a_grid_has_nothing_off_it() -> None:
    of_single_precision = (CENTS.price + 1 / 3).astype(np.float32).astype(np.float64)
    assert not [i for i in off_grid(replace(CENTS, price=of_single_precision)) if i >= 100]


def test_the_autoencoder_sees_clipped_numbers_and_zero_for_missing_ones() -> None:
    x = run(with_numbers(ONE, 50, price=1e12)).x
    assert x.shape == (len(ONE), F)
    assert x.dtype == np.float32
    assert np.abs(x).max() == CLIP


numbers = st.floats(-1e15, 1e15) | st.sampled_from([0.0, -0.0, 1e-300, 1.0])
sizes = st.floats(0, 1e15) | st.just(float("nan"))


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, sizes, numbers | st.just(float("nan")), numbers, st.integers(0, 2**62)), max_size=40)
)
def test_no_ticks_ever_put_nan_or_infinity_into_the_memory(
    rows: list[tuple[float, float, float, float, int]],
) -> None:
    n = len(rows)
    price, size, bid, ask = (np.array([r[i] for r in rows], np.float64) for i in range(4))
    ts = np.array([r[4] for r in rows], np.int64)
    blank = np.full(n, np.nan)
    memory = np.zeros(1, MEMORY)
    ticks = Ticks(
        np.zeros(n, np.int32), np.arange(n), ["s"] * n, ts, price, size, bid, ask, blank, blank, np.full(n, NO_SEQ)
    )
    found = run(ticks, memory)
    assert not np.isinf(found.z).any()
    for name in MEMORY.names or ():
        if name in ("bid", "ask"):
            continue  # NaN there says that no quote was seen
        assert np.isfinite(memory[name]).all(), name
