"""Nineteen kinds of fault, manipulation and market stress, each as an edit of one stream's rows at a given place.

Strengths are in the market's own units at that place: sigma is the exponentially weighted (EW) standard deviation of log
returns, spread the EW mean of ask - bid, both over 500 ticks. Changed prices lie on the feed's own price grid, so that
nothing is found by its decimals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from service.ticks import Ticks

SHORT: Final = 4.0  # events per 100,000 ticks
LONG: Final = 1.5
GRID: Final = ("price", "size", "bid", "ask")  # columns whose values have a smallest step

_SPAN: Final = 500  # ticks over which sigma and spread are averaged


@dataclass(frozen=True)
class Market:
    """One stream of N ticks and the units in which its anomalies are measured.

    `prints` intp [P] are the rows that state a price of their own: trades, or every row where there are only quotes or
    only prices. `last_print` intp [N] is, for rows whose price repeats the last trade's, the row of that trade, else the
    row itself. `sigma` and `spread` are float64 [N]; where there are no quotes a spread is the EW mean price change.
    """

    ticks: Ticks
    shows: frozenset[str]  # which of "trades", "quotes", "sizes" this feed has
    prints: NDArray[np.intp]
    last_print: NDArray[np.intp]
    sigma: NDArray[np.float64]
    spread: NDArray[np.float64]
    gap: float  # median inter-arrival, nanoseconds
    long_gap: float  # its 99.9 % quantile
    large_size: float  # 99.9 % quantile of trade sizes
    decimals: dict[str, int]  # of price, size, bid and ask


@dataclass(frozen=True)
class Edit:
    """Rows `start` to `stop` give way to copies of the rows `source` intp [M] with `changed` columns [M].

    The event is what follows the first `before` of them; all later ticks move by `shift` nanoseconds.
    """

    start: int
    stop: int
    source: NDArray[np.intp]
    changed: dict[str, NDArray[np.float64] | NDArray[np.int64]]
    before: int = 0
    shift: int = 0


@dataclass(frozen=True)
class Kind:
    """How to make an event at a print, None where it does not fit; events per 100,000 ticks; what the feed must have."""

    make: Callable[[Market, int, np.random.Generator], Edit | None]
    rate: float
    needs: frozenset[str]


def measure(ticks: Ticks) -> Market:
    """The market units of one stream, whose prices must be positive."""
    quoted = np.isfinite(ticks.bid) & np.isfinite(ticks.ask)
    traded = ticks.size > 0
    shows = {name for name, there in (("quotes", quoted), ("sizes", traded)) if there.any()}
    at_mid = np.isclose(ticks.price, (ticks.bid + ticks.ask) / 2, rtol=1e-9)
    if traded.any() or not at_mid[quoted].all() or not quoted.any():
        shows.add("trades")
    row = np.arange(len(ticks))
    is_print = traded if {"sizes", "quotes"} <= shows else np.ones(len(ticks), np.bool_)
    last = np.maximum.accumulate(np.where(is_print, row, 0))
    repeats = ticks.price[row] == ticks.price[last]
    step = np.diff(np.log(ticks.price), prepend=np.log(ticks.price[0]))
    move = np.abs(np.diff(ticks.price, prepend=ticks.price[0]))
    gaps = np.diff(ticks.ts)
    return Market(
        ticks=ticks,
        shows=frozenset(shows),
        prints=np.flatnonzero(is_print),
        last_print=np.where(repeats, last, row),
        sigma=np.sqrt(_ew_mean(step**2, row > 0)),
        spread=_ew_mean(np.abs(ticks.ask - ticks.bid), quoted) if "quotes" in shows else _ew_mean(move, move > 0),
        gap=float(np.median(gaps)),
        long_gap=float(np.quantile(gaps, 0.999)),
        large_size=float(np.quantile(ticks.size[traded], 0.999)) if traded.any() else np.nan,
        decimals={name: _decimals(getattr(ticks, name)) for name in GRID},
    )


def _ew_mean(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The EW mean of the values under the mask up to each row, 0 before the first."""
    decay = [1.0, 1.0 / _SPAN - 1.0]
    total = lfilter([1.0], decay, np.where(mask, values, 0.0))
    weight = lfilter([1.0], decay, mask.astype(np.float64))
    return np.asarray(total / np.maximum(weight, 1e-12))


def _decimals(values: NDArray[np.float64]) -> int:
    """How many decimals nearly all values have; a few, such as trades at the mid, may have more."""
    values = values[np.isfinite(values)]
    needed = 0.95 * len(values)
    fit = (np.isclose(values, np.round(values, d), rtol=1e-10, atol=0.0).sum() for d in range(12))
    return next((d for d, count in enumerate(fit) if count >= needed), 12)


def _grid(market: Market, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(values, market.decimals[name])


def _quoted(market: Market, mid: NDArray[np.float64], spread: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Bid and ask around the middle, and the price too where it is nothing else than the middle."""
    bid = _grid(market, "bid", mid - spread / 2)
    ask = _grid(market, "ask", mid + spread / 2)
    return {"bid": bid, "ask": ask} | ({} if "trades" in market.shows else {"price": (bid + ask) / 2})


def _mid(market: Market, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    return (market.ticks.bid[rows] + market.ticks.ask[rows]) / 2


def _printed(market: Market, rows: NDArray[np.intp], price: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices on the grid; rows that repeated the last trade's price (`rows` starts with a trade) go on doing so."""
    return _grid(market, "price", price[market.last_print[rows] - rows[0]])


def _next_prints(market: Market, at: int, count: int) -> NDArray[np.intp] | None:
    """All rows from the print `at` to the last of `count` prints."""
    first = int(np.searchsorted(market.prints, at))
    if first + count > len(market.prints):
        return None
    return np.arange(at, market.prints[first + count - 1] + 1)


def _in_place(rows: NDArray[np.intp], changed: dict[str, NDArray[np.float64]]) -> Edit:
    return Edit(int(rows[0]), int(rows[-1]) + 1, rows, dict(changed))


def _one_print(market: Market, at: int, factor: float) -> Edit:
    rows = np.array([at])
    if "trades" in market.shows:
        return _in_place(rows, {"price": _grid(market, "price", market.ticks.price[rows] * factor)})
    spread = market.ticks.ask[rows] - market.ticks.bid[rows]
    return _in_place(rows, _quoted(market, _mid(market, rows) * factor, spread))


def _wild_print(market: Market, at: int, rng: np.random.Generator, sigmas: float) -> Edit:
    return _one_print(market, at, float(np.exp(rng.choice((-1, 1)) * sigmas * market.sigma[at])))


def _decimal_shift(market: Market, at: int, rng: np.random.Generator) -> Edit:
    return _one_print(market, at, float(rng.choice((0.01, 0.1, 10.0, 100.0))))


def _moved_market(
    market: Market, rows: NDArray[np.intp], path: NDArray[np.float64], wider: NDArray[np.float64]
) -> Edit:
    """Prices and quotes times exp(path), spreads times `wider`; both float64 [len(rows)]."""
    factor = np.exp(path)
    changed = {}
    if "trades" in market.shows:
        changed["price"] = _printed(market, rows, market.ticks.price[rows] * factor)
    if "quotes" in market.shows:
        spread = (market.ticks.ask[rows] - market.ticks.bid[rows]) * wider
        changed |= _quoted(market, _mid(market, rows) * factor, spread)
    return _in_place(rows, changed)


def _flash_crash(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(40, 151))
    depth = rng.uniform(6, 15) * market.sigma[at] * np.sqrt(n) / 3
    shape = np.interp(np.arange(1, n + 1), [0, rng.uniform(0.2, 0.5) * n, n + 1], [0, 1, 0])
    return _moved_market(market, np.arange(at, at + n), -depth * shape, 1 + 3 * shape)


def _volatility_burst(market: Market, at: int, rng: np.random.Generator) -> Edit:
    n = int(rng.integers(60, 201))
    more = rng.uniform(4, 7) - 1  # the market's own steps stay, with their variance
    steps = rng.standard_t(4, n) * np.sqrt(more / 2) * market.sigma[at]  # t(4) has variance 2
    steps -= steps.mean()  # ends where the market is
    return _moved_market(market, np.arange(at, at + n), np.cumsum(steps), np.ones(n))


def _stale_quote(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(100, 251)))
    names = ("bid", "ask", "bid_size", "ask_size") + (() if "trades" in market.shows else ("price",))
    return _in_place(rows, {name: np.full(len(rows), getattr(market.ticks, name)[at]) for name in names})


def _stuck_price(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(80, 251)))
    return _in_place(rows, {"price": np.full(len(rows), market.ticks.price[at])})


def _spread_blowout(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(10, 61)))
    spread = np.full(len(rows), rng.uniform(4, 10) * market.spread[at])
    return _in_place(rows, _quoted(market, _mid(market, rows), spread))


def _crossed_book(market: Market, at: int, rng: np.random.Generator) -> Edit:
    rows = np.arange(at, at + int(rng.integers(3, 21)))
    smallest = 2 * 10.0 ** -market.decimals["bid"]  # what is left of it on the grid is still crossed
    spread = max(rng.uniform(0.5, 1.5) * market.spread[at], smallest)
    return _in_place(rows, _quoted(market, _mid(market, rows), np.full(len(rows), -spread)))


def _volume_spike(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = _next_prints(market, at, int(rng.integers(1, 5)))
    if rows is None or len(rows) > 60:
        return None
    size = market.ticks.size[rows]
    large = _grid(market, "size", rng.uniform(1.5, 8, len(rows)) * market.large_size)
    return _in_place(rows, {"size": np.where(size > 0, large, size)})


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
    return _in_place(rows, {"price": _printed(market, rows, price)})


def _off_book_block(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = _next_prints(market, at, int(rng.integers(8, 41)))
    if rows is None:
        return None
    away = rng.uniform(4, 8, len(rows)) * market.spread[at]
    price = market.ticks.ask[rows] + away if rng.random() < 0.5 else market.ticks.bid[rows] - away
    return _in_place(rows, {"price": _printed(market, rows, price)})


def _ping_pong(market: Market, at: int, rng: np.random.Generator) -> Edit | None:
    rows = _next_prints(market, at, int(rng.integers(40, 151)))
    if rows is None:
        return None
    is_print = np.isin(rows, market.prints)
    side = 1.0 - 2.0 * (np.cumsum(is_print) % 2)
    half = market.spread[at] / 2
    middle = _mid(market, rows) if "quotes" in market.shows else market.ticks.price[at] + half
    price = _printed(market, rows, middle + side * half)
    return _in_place(rows, {"price": price, "size": np.where(is_print, market.ticks.size[at], market.ticks.size[rows])})


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
