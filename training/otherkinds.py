"""Twenty-eight more kinds of fault, manipulation and stress: how does a detector do on what it was not made for?

The judge was chosen by the nineteen of `training/anomalies.py`; these had a say in few of its choices, and count in none of
the tables by kind. Strengths are in the market's own units, as there.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.market import (
    BOOK,
    LONG,
    SHORT,
    Edit,
    Kind,
    Market,
    in_place,
    mid_of,
    moved_market,
    next_prints,
    on_grid,
    printed,
    quotes_at,
)


def _span(at: int, rng: np.random.Generator, shortest: int, longest: int) -> NDArray[np.intp]:
    return np.arange(at, at + int(rng.integers(shortest, longest + 1)))


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice((-1.0, 1.0)))


def _trades_times(market: Market, rows: NDArray[np.intp], factor: float) -> NDArray[np.float64]:
    size = market.ticks.size[rows]
    return np.where(size > 0, size * factor, size)


# of quotes


def _layering(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """One side of the book is 3 to 15 times the 99 % quantile of its size."""
    rows, name = _span(at, rng, 10, 60), str(rng.choice(BOOK))
    large = np.nanquantile(getattr(market.ticks, name), 0.99) * rng.uniform(3, 15)
    return in_place(rows, {name: on_grid(market, name, np.full(len(rows), large))})


def _thin_book(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 40, 150)
    return in_place(rows, {n: np.maximum(np.round(getattr(market.ticks, n)[rows] * 0.02, 3), 0.001) for n in BOOK})


def _one_side_stale(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows, name = _span(at, rng, 60, 200), str(rng.choice(("bid", "ask")))
    return in_place(rows, {name: np.full(len(rows), getattr(market.ticks, name)[at])})


def _swapped_sides(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows, ticks = _span(at, rng, 3, 40), market.ticks
    swapped = {"bid": ticks.ask, "ask": ticks.bid, "bid_size": ticks.ask_size, "ask_size": ticks.bid_size}
    return in_place(rows, {name: values[rows] for name, values in swapped.items()})


def _lost_quotes(_market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 10, 80)
    return in_place(rows, {name: np.full(len(rows), np.nan) for name in ("bid", "ask", *BOOK)})


def _locked_quote(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 10, 60)
    return in_place(rows, quotes_at(market, mid_of(market, rows), np.zeros(len(rows))))


def _widening_spread(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 100, 250)
    wider = 1 + rng.uniform(2, 5) * np.arange(len(rows)) / len(rows)
    return in_place(rows, quotes_at(market, mid_of(market, rows), (market.ticks.ask - market.ticks.bid)[rows] * wider))


def _wild_quote(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """One quote with one wild side; no print follows it."""
    rows, name = np.array([at]), str(rng.choice(("bid", "ask")))
    factor = float(rng.choice((0.5, 0.9, 1.1, 2.0)))
    return in_place(rows, {name: on_grid(market, name, getattr(market.ticks, name)[rows] * factor)})


def _quote_stuffing(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """One quote 80 to 250 times, 30 times as fast as usual, its spread flickering by a usual one."""
    source = np.full(int(rng.integers(80, 251)), at)
    every = max(int(market.gap / 30), 1_000)
    spread = np.abs(market.ticks.ask - market.ticks.bid)[source] + market.spread[at] * rng.integers(0, 2, len(source))
    ts = market.ticks.ts[at] + every * np.arange(1, len(source) + 1)
    sizes = {"size": np.zeros(len(source))} if "sizes" in market.shows else {}
    changed = {**quotes_at(market, mid_of(market, source), spread), **sizes, "ts": ts}
    return Edit(at + 1, at + 1, source, changed, shift=every * len(source))


# of prices


def _lagging_price(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 60, 200)
    return in_place(rows, {"price": market.ticks.price[rows - int(rng.integers(20, 80))]})


def _level_shift(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """Prices and quotes 10 to 25 sigma away, and back."""
    rows = _span(at, rng, 20, 119)
    away = _side(rng) * rng.uniform(10, 25) * market.sigma[at]
    return moved_market(market, rows, np.full(len(rows), away), np.ones(len(rows)))


def _coarse_price(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows, step = _span(at, rng, 60, 200), max(market.spread[at] * rng.uniform(5, 15), 1e-12)
    return in_place(rows, {"price": printed(market, rows, np.round(market.ticks.price[rows] / step) * step)})


def _jitter(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """Noise of two spreads on every print."""
    rows = _span(at, rng, 40, 150)
    noise = 2 * market.spread[at] * rng.normal(size=len(rows))
    return in_place(rows, {"price": printed(market, rows, market.ticks.price[rows] + noise)})


def _shuffled_prices(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 60, 200)
    return in_place(rows, {"price": rng.permutation(market.ticks.price[rows])})


def _momentum_ignition(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """A ladder in one direction, 0.8 to 2 sigma a step, at 2 to 6 times the sizes."""
    rows = _span(at, rng, 15, 59)
    path = _side(rng) * rng.uniform(0.8, 2) * market.sigma[at] * np.arange(1, len(rows) + 1)
    edit = moved_market(market, rows, path, np.ones(len(rows)))
    if "sizes" in market.shows:
        edit.changed["size"] = on_grid(market, "size", _trades_times(market, rows, rng.uniform(2, 6)))
    return edit


def _staircase(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """A step of 3 to 8 sigma every 10 to 24 ticks, always the same way."""
    rows, every = _span(at, rng, 60, 199), int(rng.integers(10, 25))
    path = _side(rng) * rng.uniform(3, 8) * market.sigma[at] * (np.arange(len(rows)) // every + 1)
    return moved_market(market, rows, path, np.ones(len(rows)))


def _other_instrument(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows, factor = _span(at, rng, 1, 6), float(rng.choice((0.5, 0.7, 1.4, 2.0)))
    names = ("price", "bid", "ask") if "quotes" in market.shows else ("price",)
    return in_place(rows, {name: getattr(market.ticks, name)[rows] * factor for name in names})


def _oscillation(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """A sine of 4 to 8 sigma with a period of 8 to 24 ticks."""
    rows, period = _span(at, rng, 80, 199), rng.uniform(8, 24)
    path = rng.uniform(4, 8) * market.sigma[at] * np.sin(2 * np.pi * np.arange(len(rows)) / period)
    return moved_market(market, rows, path, np.ones(len(rows)))


def _wild_run(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    """Three to eight prints in a row 8 to 15 sigma away, while the quotes stay."""
    rows = next_prints(market, at, int(rng.integers(3, 9)))
    if rows is None or len(rows) > 60:
        return None
    factor = np.exp(_side(rng) * rng.uniform(8, 15) * market.sigma[at])
    return in_place(rows, {"price": printed(market, rows, market.ticks.price[rows] * factor)})


def _numb_market(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """Moves shrink to a tenth."""
    rows = _span(at, rng, 100, 250)
    start, price = market.ticks.price[at], market.ticks.price[rows]
    changed = {"price": printed(market, rows, start + 0.1 * (price - start))}
    if "quotes" in market.shows:
        mid = mid_of(market, rows)
        changed |= quotes_at(market, mid[0] + 0.1 * (mid - mid[0]), (market.ticks.ask - market.ticks.bid)[rows])
    return in_place(rows, changed)


# of sizes


def _lost_sizes(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 10, 80)
    return in_place(rows, {"size": _trades_times(market, rows, np.nan)})


def _lots_for_shares(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 20, 100)
    return in_place(rows, {"size": _trades_times(market, rows, 100.0)})


def _equal_sizes(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = _span(at, rng, 40, 150)
    size = market.ticks.size[rows]
    return in_place(rows, {"size": np.where(size > 0, market.ticks.size[at], size)})


def _wash_trades(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """One trade 20 to 80 times, ten times as fast as usual."""
    source = np.full(int(rng.integers(20, 81)), at)
    every = max(int(market.gap / 10), 1_000)
    ts = market.ticks.ts[at] + every * np.arange(1, len(source) + 1)
    return Edit(at + 1, at + 1, source, {"ts": ts}, shift=every * len(source))


# of time


def _frozen_clock(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows, ts = _span(at, rng, 20, 100), market.ticks.ts
    if ts[rows[-1]] - ts[at] < len(rows) * max(market.gap, 1.0):  # it hardly moves by itself
        return None
    return Edit(at, at + len(rows), rows, {"ts": np.full(len(rows), ts[at])})


def _batched_times(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """Packets: every 10 to 24 ticks share the time of the last."""
    rows, together = _span(at, rng, 80, 200), int(rng.integers(10, 25))
    last = np.minimum((np.arange(len(rows)) // together + 1) * together, len(rows)) - 1
    return Edit(at, at + len(rows), rows, {"ts": market.ticks.ts[rows][last]})


def _slow_ticks(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows, before = _span(at, rng, 40, 150), market.ticks.ts[at - 1]
    ts = before + ((market.ticks.ts[rows] - before) * rng.uniform(8, 20)).astype(np.int64)
    return Edit(at, at + len(rows), rows, {"ts": ts}, shift=int(ts[-1] - market.ticks.ts[rows[-1]]))


def _time_ahead(market: Market, at: int, rng: np.random.Generator) -> Edit:
    """One tick with a time 10 seconds to three hours ahead."""
    ahead = int(np.exp(rng.uniform(np.log(10), np.log(10_000))) * 1e9)
    return Edit(at, at + 1, np.array([at]), {"ts": market.ticks.ts[at : at + 1] + ahead})


_ANY: Final[frozenset[str]] = frozenset()
_QUOTES: Final = frozenset({"quotes"})
_TRADES: Final = frozenset({"trades"})
_SIZES: Final = frozenset({"sizes"})
_BOOK: Final = frozenset({"book"})

OTHER_KINDS: Final[dict[str, Kind]] = {
    "layering": Kind(_layering, SHORT, _BOOK),
    "swapped_sides": Kind(_swapped_sides, SHORT, _QUOTES),
    "lost_quotes": Kind(_lost_quotes, SHORT, _QUOTES),
    "locked_quote": Kind(_locked_quote, SHORT, _QUOTES),
    "wild_quote": Kind(_wild_quote, SHORT, _QUOTES),
    "level_shift": Kind(_level_shift, SHORT, _ANY),
    "momentum_ignition": Kind(_momentum_ignition, SHORT, _ANY),
    "other_instrument": Kind(_other_instrument, SHORT, _ANY),
    "wild_run": Kind(_wild_run, SHORT, _TRADES),
    "lost_sizes": Kind(_lost_sizes, SHORT, _SIZES),
    "lots_for_shares": Kind(_lots_for_shares, SHORT, _SIZES),
    "wash_trades": Kind(_wash_trades, SHORT, _SIZES),
    "frozen_clock": Kind(_frozen_clock, SHORT, _ANY),
    "time_ahead": Kind(_time_ahead, SHORT, _ANY),
    "thin_book": Kind(_thin_book, LONG, _BOOK),
    "one_side_stale": Kind(_one_side_stale, LONG, _QUOTES),
    "widening_spread": Kind(_widening_spread, LONG, _QUOTES),
    "quote_stuffing": Kind(_quote_stuffing, LONG, _QUOTES),
    "lagging_price": Kind(_lagging_price, LONG, _TRADES),
    "coarse_price": Kind(_coarse_price, LONG, _TRADES),
    "jitter": Kind(_jitter, LONG, _TRADES),
    "shuffled_prices": Kind(_shuffled_prices, LONG, _TRADES),
    "staircase": Kind(_staircase, LONG, _ANY),
    "oscillation": Kind(_oscillation, LONG, _ANY),
    "numb_market": Kind(_numb_market, LONG, _ANY),
    "equal_sizes": Kind(_equal_sizes, LONG, _SIZES),
    "batched_times": Kind(_batched_times, LONG, _ANY),
    "slow_ticks": Kind(_slow_ticks, LONG, _ANY),
}
