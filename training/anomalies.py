"""Nineteen kinds of fault, manipulation and market stress, each as an edit of one stream's rows at a given place.

Strengths are in the market's own units at that place, sigma and spread of `training/market.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np

from training.market import (
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
    one_print,
    printed,
    quotes_at,
)


def _wild_print(market: Market, at: int, rng: np.random.Generator, sigmas: float) -> Edit:
    return one_print(market, at, float(np.exp(rng.choice((-1, 1)) * sigmas * market.sigma[at])))


def _decimal_shift(market: Market, at: int, rng: np.random.Generator) -> Edit:
    return one_print(market, at, float(rng.choice((0.01, 0.1, 10.0, 100.0))))


def _flash_crash(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(40, 151))
    depth = rng.uniform(6, 15) * market.sigma[at] * np.sqrt(n) / 3
    shape = np.interp(np.arange(1, n + 1), [0, rng.uniform(0.2, 0.5) * n, n + 1], [0, 1, 0])
    return moved_market(market, np.arange(at, at + n), -depth * shape, 1 + 3 * shape)


def _volatility_burst(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(60, 201))
    more = rng.uniform(4, 7) - 1  # the market's own steps stay, with their variance
    steps = rng.standard_t(4, n) * np.sqrt(more / 2) * market.sigma[at]  # t(4) has variance 2
    steps -= steps.mean()  # ends where the market is
    return moved_market(market, np.arange(at, at + n), np.cumsum(steps), np.ones(n))


def _stale_quote(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(100, 251)))
    names = ("bid", "ask", "bid_size", "ask_size") + (() if "trades" in market.shows else ("price",))
    return in_place(rows, {name: np.full(len(rows), getattr(market.ticks, name)[at]) for name in names})


def _stuck_price(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(80, 251)))
    return in_place(rows, {"price": np.full(len(rows), market.ticks.price[at])})


def _spread_blowout(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(10, 61)))
    spread = np.full(len(rows), rng.uniform(4, 10) * market.spread[at])
    return in_place(rows, quotes_at(market, mid_of(market, rows), spread))


def _crossed_book(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(3, 21)))
    smallest = 2 * 10.0 ** -market.decimals["bid"]  # what is left of it on the grid is still crossed
    spread = max(rng.uniform(0.5, 1.5) * market.spread[at], smallest)
    return in_place(rows, quotes_at(market, mid_of(market, rows), np.full(len(rows), -spread)))


def _volume_spike(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = next_prints(market, at, int(rng.integers(1, 5)))
    if rows is None or len(rows) > 60:
        return None
    size = market.ticks.size[rows]
    large = on_grid(market, "size", rng.uniform(1.5, 8, len(rows)) * market.large_size)
    return in_place(rows, {"size": np.where(size > 0, large, size)})


def _rate_burst(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = np.arange(at, at + int(rng.integers(100, 251)))
    since = market.ticks.ts[rows] - market.ticks.ts[at - 1]
    if since[-1] < len(rows) * market.gap:  # already a burst
        return None
    ts = market.ticks.ts[at - 1] + (since / rng.uniform(20, 50)).astype(np.int64)
    return Edit(at, at + len(rows), rows, {"ts": ts}, shift=int(ts[-1] - market.ticks.ts[rows[-1]]))


def _feed_gap(market: Market, at: int, rng: np.random.Generator) -> Edit:
    shift = int(rng.uniform(5, 30) * market.long_gap)
    return Edit(at, at + 1, np.array([at]), {"ts": market.ticks.ts[at : at + 1] + shift}, shift=shift)


def _duplicates(_market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(5, 26))
    rows = np.arange(at, at + n)
    return Edit(at, at + n, np.tile(rows, int(rng.integers(2, 4))), {}, before=n)


def _replay(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(30, 81))
    first = max(0, at - int(rng.integers(n, 5_000)))
    source = np.arange(first, first + n)
    since = market.ticks.ts[source] - market.ticks.ts[first]
    ts = market.ticks.ts[at - 1] + int(market.gap) + since
    return Edit(at, at, source, {"ts": ts}, shift=int(market.gap + since[-1]))


def _out_of_order(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    n = int(rng.integers(3, 21))
    late = rng.uniform(1, 5) * max(1e9, 20 * market.gap)
    stop = int(np.searchsorted(market.ticks.ts, market.ticks.ts[at + n - 1] + late))
    if not at + n < stop < min(at + 5_000, len(market.ticks)):
        return None
    source = np.concatenate([np.arange(at + n, stop), np.arange(at, at + n)])
    return Edit(at, stop, source, {}, before=stop - at - n)


def _drift_from_quotes(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(100, 251))
    rows = np.arange(at, at + n)
    depth = rng.choice((-1, 1)) * rng.uniform(8, 16) * market.sigma[at] * np.sqrt(n) / 2
    price = market.ticks.price[rows] * np.exp(depth * np.arange(1, n + 1) / n)
    return in_place(rows, {"price": printed(market, rows, price)})


def _off_book_block(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = next_prints(market, at, int(rng.integers(8, 41)))
    if rows is None:
        return None
    away = rng.uniform(4, 8, len(rows)) * market.spread[at]
    price = market.ticks.ask[rows] + away if rng.random() < 0.5 else market.ticks.bid[rows] - away
    return in_place(rows, {"price": printed(market, rows, price)})


def _ping_pong(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = next_prints(market, at, int(rng.integers(40, 151)))
    if rows is None:
        return None
    is_print = np.isin(rows, market.prints)
    side = 1.0 - 2.0 * (np.cumsum(is_print) % 2)
    half = market.spread[at] / 2
    middle = mid_of(market, rows) if "quotes" in market.shows else market.ticks.price[at] + half
    price = printed(market, rows, middle + side * half)
    return in_place(rows, {"price": price, "size": np.where(is_print, market.ticks.size[at], market.ticks.size[rows])})


_ANY: Final[frozenset[str]] = frozenset()
_QUOTES: Final = frozenset({"quotes"})
_TRADES: Final = frozenset({"trades"})

KINDS: Final[dict[str, Kind]] = {
    "wild_print_5": Kind(partial(_wild_print, sigmas=5.0), SHORT, _ANY),
    "wild_print_10": Kind(partial(_wild_print, sigmas=10.0), SHORT, _ANY),
    "wild_print_20": Kind(partial(_wild_print, sigmas=20.0), SHORT, _ANY),
    "decimal_shift": Kind(_decimal_shift, SHORT, _ANY),
    "spread_blowout": Kind(_spread_blowout, SHORT, _QUOTES),
    "crossed_book": Kind(_crossed_book, SHORT, _QUOTES),
    "volume_spike": Kind(_volume_spike, SHORT, frozenset({"sizes"})),
    "feed_gap": Kind(_feed_gap, SHORT, _ANY),
    "duplicates": Kind(_duplicates, SHORT, _ANY),
    "replay": Kind(_replay, SHORT, _ANY),
    "out_of_order": Kind(_out_of_order, SHORT, _ANY),
    "off_book_block": Kind(_off_book_block, SHORT, _TRADES | _QUOTES),
    "flash_crash": Kind(_flash_crash, LONG, _ANY),
    "volatility_burst": Kind(_volatility_burst, LONG, _ANY),
    "stale_quote": Kind(_stale_quote, LONG, _QUOTES),
    "stuck_price": Kind(_stuck_price, LONG, _TRADES),
    "rate_burst": Kind(_rate_burst, LONG, _ANY),
    "drift_from_quotes": Kind(_drift_from_quotes, LONG, _TRADES | _QUOTES),
    "ping_pong": Kind(_ping_pong, LONG, _TRADES),
}
