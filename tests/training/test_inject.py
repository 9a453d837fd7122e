"""Injected anomalies are where their labels say, as strong as promised, and nowhere else."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.ticks import NUMBERS, Ticks, problems
from tests.samples import REAL, needs_real_ticks, random_ticks
from tests.training.markets import ALL_KINDS, CLEAN, ROWS, market, only
from training.anomalies import KINDS
from training.history import read_history
from training.inject import CLEAN_ROWS, SPACING, Injected, inject
from training.market import Kind, measure
from training.otherkinds import OTHER_KINDS

NEEDS_BOOK = {"layering", "thin_book"}
NEEDS_SIZES = {"volume_spike", "lost_sizes", "lots_for_shares", "wash_trades", "equal_sizes"}
NEEDS_QUOTES = NEEDS_BOOK | {
    "crossed_book",
    "drift_from_quotes",
    "locked_quote",
    "lost_quotes",
    "off_book_block",
    "one_side_stale",
    "quote_stuffing",
    "spread_blowout",
    "stale_quote",
    "swapped_sides",
    "widening_spread",
    "wild_quote",
}
NEEDS_TRADES = NEEDS_SIZES | {
    "coarse_price",
    "drift_from_quotes",
    "jitter",
    "lagging_price",
    "off_book_block",
    "ping_pong",
    "shuffled_prices",
    "stuck_price",
    "wild_run",
}
CANNOT_SHOW = {
    "trades and quotes": set(),
    "trades": NEEDS_QUOTES,
    "prices": NEEDS_QUOTES | NEEDS_SIZES,
    "quotes": NEEDS_TRADES,
}


feeds = pytest.mark.parametrize("feed", CANNOT_SHOW)
both = pytest.mark.parametrize("kinds", [KINDS, OTHER_KINDS], ids=["standard", "other"])
seeds = given(seed=st.integers(0, 2**32 - 1))
few = settings(max_examples=8, deadline=None)


def in_events(injected: Injected) -> NDArray[np.bool_]:
    mask = np.zeros(len(injected.ticks), np.bool_)
    for event in injected.events:
        mask[event.start : event.stop] = True
    return mask


def same(a: Ticks, b: Ticks) -> bool:
    """Whether two sets of ticks have the same bits."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name), f.name in NUMBERS) for f in fields(Ticks))


@feeds
@both
def test_a_feed_gets_every_kind_that_it_can_show_and_no_other(feed: str, kinds: dict[str, Kind]) -> None:
    found = {event.kind for seed in range(4) for event in inject(market(feed), seed, CLEAN, kinds).events}
    assert found == set(kinds) - CANNOT_SHOW[feed]


@feeds
@both
@few
@seeds
def test_rows_outside_events_are_the_original_ones(feed: str, kinds: dict[str, Kind], seed: int) -> None:
    ticks = market(feed)
    injected = inject(ticks, seed, CLEAN, kinds)
    outside = ~in_events(injected)
    now = injected.ticks.take(np.flatnonzero(outside))
    was = ticks.take(now.partition.astype(np.intp))
    assert same(replace(now, ts=was.ts, offset=was.offset), was)
    moved = {int(i) for i in injected.ticks.partition[~outside]} - set(now.partition.tolist())
    assert len(now) + len(moved) == ROWS  # none was lost
    assert (np.diff(now.partition) > 0).all()  # nor changed its place among the others
    joined = np.diff(now.partition, prepend=-1) == 1
    joined &= np.diff(np.cumsum(~outside)[outside], prepend=0) == 0
    assert np.array_equal(np.diff(now.ts)[joined[1:]], np.diff(was.ts)[joined[1:]])


@feeds
@both
@few
@seeds
def test_every_event_changes_what_its_label_covers(feed: str, kinds: dict[str, Kind], seed: int) -> None:
    ticks = market(feed)
    injected = inject(ticks, seed, CLEAN, kinds)
    for event in injected.events:
        rows = np.arange(event.start - 1, event.stop)
        now = injected.ticks.take(rows)
        was = ticks.take(now.partition.astype(np.intp))
        in_order = np.array_equal(np.diff(now.partition), np.ones(len(rows) - 1))
        changed = np.zeros(len(rows), np.bool_)
        for name in NUMBERS:
            old, new = getattr(was, name), getattr(now, name)
            changed |= (old != new) & ~np.isnan(old)
        changed[1:] |= np.diff(now.ts) != np.diff(was.ts)
        is_trade = (was.size > 0) | ~(was.size > 0).any()
        assert not in_order or changed[1:][is_trade[1:]].mean() >= 0.5, event


@feeds
@both
@few
@seeds
def test_injected_ticks_are_valid_ticks(feed: str, kinds: dict[str, Kind], seed: int) -> None:
    injected = inject(market(feed), seed, CLEAN, kinds)
    ticks = injected.ticks
    assert problems({name: getattr(ticks, name) for name in NUMBERS}) == {}
    assert (ticks.price > 0).all()
    assert np.array_equal(ticks.offset, np.arange(len(ticks)))
    assert len(set(ticks.stream)) == 1
    backwards = np.flatnonzero(np.diff(ticks.ts) < 0) + 1
    late = {
        i
        for e in injected.events
        if e.kind in {"duplicates", "out_of_order", "time_ahead"}
        for i in range(e.start, e.stop + 1)
    }
    assert set(backwards.tolist()) <= late


@both
@few
@seeds
def test_the_head_stays_clean_and_events_stay_apart(kinds: dict[str, Kind], seed: int) -> None:
    injected = inject(market(), seed, CLEAN, kinds)
    head = np.arange(CLEAN)
    assert same(injected.ticks.take(head), market().take(head))
    stops = [CLEAN - SPACING, *(event.stop for event in injected.events)]
    starts = [*(event.start for event in injected.events), len(injected.ticks) + SPACING]
    assert all(start >= stop + SPACING for start, stop in zip(starts, stops, strict=True))


@both
def test_kinds_come_at_their_rates(kinds: dict[str, Kind]) -> None:
    count = Counter(e.kind for seed in range(40) for e in inject(market(), seed, CLEAN, kinds).events)
    ticks = 40 * (ROWS - CLEAN) / 100_000
    for name, kind in kinds.items():
        assert count[name] / ticks == pytest.approx(kind.rate, rel=0.2), name


def test_a_seed_always_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (inject(market(), seed, CLEAN) for seed in (1, 1, 2))
    assert first.events == again.events
    assert same(first.ticks, again.ticks)
    assert first.events != other.events


def test_the_original_ticks_stay_as_they_are() -> None:
    ticks = random_ticks(10_000, streams=1)
    before = ticks.take(np.arange(len(ticks)))
    inject(ticks, 0, CLEAN)
    assert same(ticks, before)


@pytest.mark.parametrize("sigmas", [5, 10, 20])
def test_a_wild_print_is_so_many_sigma_off(sigmas: int) -> None:
    sigma = measure(market()).sigma
    for _, now, was in only(f"wild_print_{sigmas}"):
        away = np.abs(np.log(now.price / was.price)) / sigma[now.partition]
        grid = 0.005 / was.price / sigma[now.partition]
        assert len(now) == 1
        assert away == pytest.approx(sigmas, abs=1.01 * grid.item() + 1e-6 * sigmas)


def test_a_decimal_shift_moves_the_point_of_one_print() -> None:
    for _, now, was in only("decimal_shift"):
        assert np.abs(np.log10(now.price / was.price).round(2)).item() in {1.0, 2.0}


def test_a_blown_out_spread_is_4_to_10_times_the_usual() -> None:
    usual = measure(market()).spread
    for event, now, was in only("spread_blowout"):
        assert 10 <= event.stop - event.start <= 60
        spread = now.ask - now.bid
        assert (spread >= 4 * usual[now.partition[0]] - 0.011).all()
        assert (spread <= 10 * usual[now.partition[0]] + 0.011).all()
        assert np.array_equal(now.price, was.price)


def test_a_crossed_book_has_its_bid_above_its_ask() -> None:
    for event, now, _ in [*only("crossed_book"), *only("crossed_book", "quotes")]:
        assert 3 <= event.stop - event.start <= 20
        assert (now.bid > now.ask).all()


def test_a_volume_spike_is_beyond_all_usual_sizes() -> None:
    sizes = market().size
    for event, now, was in only("volume_spike"):
        traded = was.size > 0
        assert 1 <= traded.sum() <= 4
        assert traded[[0, -1]].all()
        assert (now.size[traded] >= 1.49 * np.quantile(sizes[sizes > 0], 0.999)).all()
        assert event.stop - event.start == len(was)


def test_a_feed_gap_is_longer_than_nearly_all_gaps() -> None:
    ticks = market()
    usual = np.quantile(np.diff(ticks.ts), 0.999)
    for seed in range(3):
        injected = inject(ticks, seed, CLEAN, {"feed_gap": KINDS["feed_gap"]})
        for event in injected.events:
            gap = injected.ticks.ts[event.start] - injected.ticks.ts[event.start - 1]
            assert 5 * usual <= gap <= 32 * usual


def test_a_rate_burst_is_20_to_50_times_faster() -> None:
    for event, now, was in only("rate_burst"):
        assert 100 <= event.stop - event.start <= 250
        assert 19.9 <= np.ptp(was.ts) / np.ptp(now.ts) <= 50.1


def test_duplicates_repeat_the_rows_before_them() -> None:
    for event, now, was in only("duplicates"):
        distinct = len(set(now.partition.tolist()))
        assert 5 <= distinct <= 25
        assert event.stop - event.start in {distinct, 2 * distinct}
        assert all(np.array_equal(getattr(now, n), getattr(was, n), True) for n in NUMBERS)
        assert np.array_equal(now.ts - was.ts, np.full(len(now), now.ts[0] - was.ts[0]))


def test_a_replay_is_older_rows_with_new_times() -> None:
    for event, now, was in only("replay"):
        assert 30 <= event.stop - event.start <= 80
        assert all(np.array_equal(getattr(now, n), getattr(was, n), True) for n in NUMBERS)
        assert (np.diff(now.ts) >= 0).all()
        assert now.ts[0] > was.ts[-1]


def test_rows_out_of_order_come_late_by_a_second_or_more() -> None:
    ticks = market()
    for seed in range(3):
        injected = inject(ticks, seed, CLEAN, {"out_of_order": KINDS["out_of_order"]})
        for event in injected.events:
            now = injected.ticks.take(np.arange(event.start - 1, event.stop))
            assert 3 <= event.stop - event.start <= 20
            assert now.ts[0] - now.ts[-1] >= 0.98e9  # the row before is the last one before that second had gone
            assert now.partition[0] > now.partition[-1]


def test_an_off_book_block_prints_4_to_8_spreads_away_from_the_quote() -> None:
    usual = measure(market()).spread
    for _, now, was in only("off_book_block"):
        traded = was.size > 0
        away = np.maximum(now.price - now.ask, now.bid - now.price)[traded] / usual[now.partition[0]]
        assert 8 <= traded.sum() <= 40
        assert away.min() >= 4 - 0.5
        assert away.max() <= 8 + 0.5


def test_ping_pong_alternates_between_two_sides_with_equal_sizes() -> None:
    for _, now, was in only("ping_pong"):
        traded = was.size > 0
        side = np.sign((now.price - (now.bid + now.ask) / 2)[traded].round(6))
        assert 40 <= traded.sum() <= 150
        assert len(set(now.size[traded].tolist())) == 1
        assert (side[1:] * side[:-1] <= 0).all()
        assert np.abs(side).mean() > 0.9


def test_a_flash_crash_falls_deep_and_recovers() -> None:
    sigma = measure(market()).sigma
    for event, now, was in only("flash_crash"):
        length = event.stop - event.start
        fall = np.log(was.price / now.price)
        depth = fall.max() / (sigma[now.partition[0]] * np.sqrt(length) / 3)
        assert 40 <= length <= 150
        assert 5 <= depth <= 15.5
        assert fall[-1] < fall.max() / 5
        assert (now.ask - now.bid).max() > 2 * (was.ask - was.bid).min()


def test_a_volatility_burst_has_several_times_the_variance_and_ends_where_the_market_is() -> None:
    ratios = []
    for event, now, was in only("volatility_burst", "prices"):
        assert 60 <= event.stop - event.start <= 200
        ratios.append(np.diff(np.log(now.price)).var() / measure(market("prices")).sigma[now.partition[0]] ** 2)
        assert now.price[-1] == pytest.approx(was.price[-1], abs=0.006)
    assert 3 <= np.median(ratios) <= 9


def test_a_stale_quote_stands_still_while_trades_go_on() -> None:
    for event, now, was in only("stale_quote"):
        assert 100 <= event.stop - event.start <= 250
        assert len(set(zip(now.bid, now.ask, now.bid_size, now.ask_size, strict=True))) == 1
        assert np.array_equal(now.price, was.price)


def test_a_stuck_price_stands_still_while_quotes_go_on() -> None:
    for event, now, was in only("stuck_price"):
        assert 80 <= event.stop - event.start <= 250
        assert len(set(now.price.tolist())) == 1
        assert np.array_equal(now.bid, was.bid)


def test_prices_drift_from_quotes_that_stay() -> None:
    sigma = measure(market()).sigma
    for event, now, was in only("drift_from_quotes"):
        length = event.stop - event.start
        depth = np.abs(np.log(now.price / was.price)) / (sigma[now.partition[0]] * np.sqrt(length) / 2)
        assert 100 <= length <= 250
        assert 7 <= depth[-1] <= 17
        assert np.array_equal(now.bid, was.bid)


@pytest.mark.parametrize(("kind", "column"), [("stale_quote", "bid"), ("stuck_price", "price")])
def test_nothing_is_called_frozen_where_the_market_itself_stood_still(kind: str, column: str) -> None:
    row = np.arange(ROWS)
    calm = row % 4_000 < 3_000
    still = market().take(np.where(calm, row - row % 4_000, row))
    ticks = replace(still, ts=market().ts, partition=market().partition, size=market().size)
    events = [event for seed in range(6) for event in inject(ticks, seed, CLEAN, {kind: ALL_KINDS[kind]}).events]
    assert len(events) >= 3
    assert all(calm[event.start : event.stop].mean() <= 0.6 for event in events)
    assert all(len(set(getattr(ticks, column)[event.start : event.stop])) > 1 for event in events)


def test_quote_rows_that_repeat_the_last_trade_go_on_doing_so() -> None:
    ticks = market()
    traded = ticks.size > 0
    traded[0] = True
    last = np.maximum.accumulate(np.where(traded, np.arange(ROWS), 0))
    repeating = replace(ticks, price=ticks.price[last])
    kinds = ("off_book_block", "ping_pong", "volatility_burst", "flash_crash", "jitter", "numb_market")
    injected = inject(repeating, 0, CLEAN, {kind: ALL_KINDS[kind] for kind in kinds})
    assert injected.events
    quotes = np.flatnonzero(in_events(injected) & (injected.ticks.size == 0))
    assert np.array_equal(injected.ticks.price[quotes], injected.ticks.price[quotes - 1])


@pytest.mark.parametrize(
    ("ticks", "sentence"),
    [
        (random_ticks(9_000, streams=3), "one stream at a time, these ticks are of 3"),
        (
            random_ticks(6_999, streams=1),
            r"has 6999 ticks; anomalies after 5000 clean ones take 7000 \(`tickwatch evaluate --clean`",
        ),
        (replace(random_ticks(9_000, streams=1), price=np.zeros(9_000)), "a price that is not positive"),
    ],
)
def test_what_cannot_be_injected_into_is_refused_in_words(ticks: Ticks, sentence: str) -> None:
    with pytest.raises(TickwatchError, match=sentence):
        inject(ticks, 0, CLEAN)


@needs_real_ticks
def test_real_feeds_show_the_kinds_that_their_columns_allow() -> None:
    for name, ticks in read_history(REAL).streams.items():
        quotes_only = "EURUSD" in name
        hidden = CANNOT_SHOW["quotes" if quotes_only else "trades" if name == "COMEX_GC" else "trades and quotes"]
        hidden = hidden | (NEEDS_BOOK if quotes_only else set())
        for kinds in (KINDS, OTHER_KINDS):
            found = {event.kind for seed in range(9) for event in inject(ticks, seed, CLEAN_ROWS, kinds).events}
            assert found == set(kinds) - hidden, name
