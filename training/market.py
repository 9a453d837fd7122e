"""One stream's market: the units in which anomalies are measured, and the edits that make them.

Sigma is the exponentially weighted (EW) standard deviation of log returns, spread the EW mean of ask - bid, both over 500
ticks. Changed prices lie on the feed's own grid, so that nothing is found by its decimals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from service.ticks import Ticks

SHORT: Final = 4.0  # events per 100,000 ticks
LONG: Final = 1.5
GRID: Final = ("price", "size", "bid", "ask")  # columns whose values have a smallest step
BOOK: Final = ("bid_size", "ask_size")

_SPAN: Final = 500  # ticks over which sigma and spread are averaged


@dataclass(frozen=True)
class Market:
    """One stream of N ticks and the units in which its anomalies are measured.

    `prints` intp [P] are the rows that state a price of their own: trades, or every row where there are only quotes or
    only prices. `last_print` intp [N] is, for rows whose price repeats the last trade's, the row of that trade, else the
    row itself. `sigma` and `spread` are float64 [N]; where there are no quotes a spread is the EW mean price change.
    """

    ticks: Ticks
    shows: frozenset[str]  # which of "trades", "quotes", "sizes", "book" this feed has
    prints: NDArray[np.intp]
    last_print: NDArray[np.intp]
    sigma: NDArray[np.float64]
    spread: NDArray[np.float64]
    gap: float  # median inter-arrival, nanoseconds
    long_gap: float  # its 99.9 % quantile
    large_size: float  # 99.9 % quantile of trade sizes
    decimals: dict[str, int]  # of the columns in GRID and BOOK


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
    booked = np.isfinite(ticks.bid_size) & np.isfinite(ticks.ask_size)
    shows = {name for name, there in (("quotes", quoted), ("sizes", traded), ("book", booked)) if there.any()}
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
        decimals={name: _decimals(getattr(ticks, name)) for name in (*GRID, *BOOK)},
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


def on_grid(market: Market, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(values, market.decimals[name])


def quotes_at(market: Market, mid: NDArray[np.float64], spread: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Bid and ask around the middle, and the price too where it is nothing else than the middle."""
    bid = on_grid(market, "bid", mid - spread / 2)
    ask = on_grid(market, "ask", mid + spread / 2)
    return {"bid": bid, "ask": ask} | ({} if "trades" in market.shows else {"price": (bid + ask) / 2})


def mid_of(market: Market, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    return (market.ticks.bid[rows] + market.ticks.ask[rows]) / 2


def printed(market: Market, rows: NDArray[np.intp], price: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices on the grid; rows that repeated the last trade's price (`rows` starts with a trade) go on doing so."""
    return on_grid(market, "price", price[market.last_print[rows] - rows[0]])


def next_prints(market: Market, at: int, count: int) -> NDArray[np.intp] | None:
    """All rows from the print `at` to the last of `count` prints."""
    first = int(np.searchsorted(market.prints, at))
    if first + count > len(market.prints):
        return None
    return np.arange(at, market.prints[first + count - 1] + 1)


def in_place(rows: NDArray[np.intp], changed: dict[str, NDArray[np.float64]]) -> Edit:
    return Edit(int(rows[0]), int(rows[-1]) + 1, rows, dict(changed))


def one_print(market: Market, at: int, factor: float) -> Edit:
    rows = np.array([at])
    if "trades" in market.shows:
        return in_place(rows, {"price": on_grid(market, "price", market.ticks.price[rows] * factor)})
    spread = market.ticks.ask[rows] - market.ticks.bid[rows]
    return in_place(rows, quotes_at(market, mid_of(market, rows) * factor, spread))


def moved_market(market: Market, rows: NDArray[np.intp], path: NDArray[np.float64], wider: NDArray[np.float64]) -> Edit:
    """Prices and quotes times exp(path), spreads times `wider`; both float64 [len(rows)]."""
    factor = np.exp(path)
    changed = {}
    if "trades" in market.shows:
        changed["price"] = printed(market, rows, market.ticks.price[rows] * factor)
    if "quotes" in market.shows:
        spread = (market.ticks.ask[rows] - market.ticks.bid[rows]) * wider
        changed |= quotes_at(market, mid_of(market, rows) * factor, spread)
    return in_place(rows, changed)
