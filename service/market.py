"""A small synthetic market whose ticks have the habits of real ones; `service.simulator` adds the faults.

Arrivals are Hawkes processes with exponential kernels on three time scales (Bacry, Mastromatteo, Muzy 2015, "Hawkes
processes in finance"), drawn exactly by the method of Dassios and Zhao 2013. Fast ones make the sweeps of one order,
slow ones the busy minutes. A hidden price moves with each order, with log-normal stochastic volatility (Taylor 1986);
quotes follow it with a lag, one side first, and trades bounce between bid and ask with persistent signs (Lillo, Farmer
2004). Parameters were set by comparing these habits with those of real feeds of the same kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

import msgspec

SAME_ORDER_NS = 1_000_000  # ticks that follow faster belong to one order: same side, no news in between
IMPACT = 0.3  # of one more trade of the same order, in units of an instrument's volatility
VOLATILITY_MEMORY_S = 60
VOLATILITY_SIGMA = 0.5  # of its logarithm
TIDE_S = 1800  # period of the slow swing in activity that all symbols share
REVERSION = 1e-6  # pull of the hidden price per order towards where it began: invisible, but no price drifts away


@dataclass(frozen=True)
class Instrument:
    """How one symbol trades. What has no unit below is a probability per tick; a tick of price is 10 ** -decimals."""

    name: str
    rate: float  # ticks per second in the long run
    price: float
    decimals: int  # of prices
    clock_ns: int  # resolution of the feed's timestamps
    branching: tuple[float, float, float]  # ticks caused by one tick on the fast, middle and slow scale
    decay: tuple[float, float, float]  # of these scales, per second
    volatility: float  # ticks of hidden price per order
    spread: float  # median, in ticks
    spread_sigma: float  # of its logarithm
    respread: float  # a new spread is wanted
    patience: float  # ticks that the hidden price may be off the mid before quotes follow
    catch_up: float  # the lagging side of the quote closes the gap
    flip: float  # the next order is on the other side
    inside: float  # a trade is between bid and ask
    lot: float
    size: float  # median trade in lots
    size_sigma: float
    repeat: float  # a trade has the size of the one before
    odd: float  # a trade is not a multiple of the lot
    depth: float  # median size at the best bid and ask in lots; 0 when the feed does not say
    start_trading: float = 1.0  # after a quote update comes a trade
    stop_trading: float = 0.0  # after a trade comes a quote update
    quoted: bool = True


class MarketTick(msgspec.Struct, omit_defaults=True, gc=False):
    """A tick as a feed publishes it: encoded as JSON it is what `service.ticks.decode` reads."""

    stream: str
    ts: int
    price: float
    size: float
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None


class Book(msgspec.Struct):
    """All that the market remembers of one symbol. Prices in ticks, sizes in lots."""

    excitation: list[float]  # ticks per second above the base rate, one number per time scale
    hidden: float
    bid: int
    ask: int
    wanted_spread: int
    last: int  # price of the last trade
    last_size: float
    bid_size: float
    ask_size: float
    ts: int = 0
    log_volatility: float = 0.0
    side: int = 1
    trading: bool = False


# Trades that carry the quote of their moment, as US equities are published; thick, penny-wide books.
_STOCK = Instrument(
    name="SIM:ACME", rate=80, price=38.24, decimals=2, clock_ns=1_000_000, branching=(0.58, 0.2, 0.13),
    decay=(3000, 20, 0.5), volatility=0.12, spread=1, spread_sigma=0.1, respread=0.01, patience=0.9, catch_up=0.7,
    flip=0.2, inside=0.05, lot=100, size=1.6, size_sigma=1.35, repeat=0.1, odd=0.09, depth=320,
)  # fmt: skip
# The same for a stock that costs more: several ticks wide, thin, and prints inside the spread.
_THIN_STOCK = replace(
    _STOCK, name="SIM:CRUX", rate=20, price=179.46, branching=(0.5, 0.25, 0.15), decay=(1000, 4, 0.1), volatility=0.9,
    spread=2.6, spread_sigma=0.6, respread=0.2, patience=1.0, catch_up=0.5, flip=0.3, inside=0.3, size=0.4,
    size_sigma=1.25, repeat=0.4, depth=2.2,
)  # fmt: skip
# Best quotes and trades as they happen, as crypto venues publish them; a quote update repeats the last trade's price.
_COIN = Instrument(
    name="SIM:BTC", rate=120, price=61_663.98, decimals=2, clock_ns=100, branching=(0.55, 0.25, 0.12),
    decay=(6000, 30, 1.0), volatility=6.0, spread=1, spread_sigma=0.1, respread=0.01, patience=22, catch_up=0.25,
    flip=0.15, inside=0.05, lot=1e-5, size=70, size_sigma=2.9, repeat=0.12, odd=0.0, depth=80_000,
    start_trading=0.095, stop_trading=0.35,
)  # fmt: skip
# Dealer quotes without trades; the price is the mid.
_PAIR = Instrument(
    name="SIM:EURUSD", rate=60, price=1.38764, decimals=5, clock_ns=1_000_000, branching=(0.35, 0.3, 0.2),
    decay=(200, 10, 0.2), volatility=1.2, spread=11.5, spread_sigma=0.1, respread=0.8, patience=0, catch_up=1.0,
    flip=0.5, inside=0.0, lot=1, size=1, size_sigma=0, repeat=0, odd=0.0, depth=0, start_trading=0, stop_trading=1,
)  # fmt: skip

INSTRUMENTS = (
    _COIN,
    replace(_COIN, name="SIM:ETH", rate=150, price=2680.19, volatility=0.45, patience=1.5, lot=1e-3, size=70,
            size_sigma=2.4, depth=13_000, start_trading=0.06, stop_trading=0.23),
    replace(_COIN, name="SIM:SOL", rate=60, price=145.37, volatility=0.25, patience=1.0, lot=1e-3, size=900,
            size_sigma=2.2, depth=60_000),
    _STOCK,
    replace(_STOCK, name="SIM:BOLT", rate=45, price=13.71, volatility=0.08, depth=600),
    _THIN_STOCK,
    replace(_THIN_STOCK, name="SIM:DUNE", rate=8, price=92.15, volatility=0.8, spread=1.8),
    replace(_THIN_STOCK, name="SIM:ECHO", rate=2, price=240.52, spread=4.0, volatility=1.6),
    replace(_THIN_STOCK, name="SIM:FERN", rate=0.5, price=56.30, spread=3.0),
    _PAIR,
    replace(_PAIR, name="SIM:USDJPY", rate=25, price=101.823, decimals=3, spread=9.0),
    Instrument(
        name="SIM:GOLD", rate=30, price=1327.6, decimals=1, clock_ns=1_000_000, branching=(0.4, 0.25, 0.2),
        decay=(2000, 10, 0.2), volatility=0.55, spread=1, spread_sigma=0.2, respread=0.1, patience=0.6, catch_up=0.7,
        flip=0.3, inside=0.0, lot=1, size=0.4, size_sigma=1.3, repeat=0.25, odd=0.0, depth=0, quoted=False,
    ),
)  # fmt: skip


def opening(it: Instrument) -> Book:
    """The book before the first tick, with its arrivals in full swing."""
    bid = round(it.price * 10**it.decimals)
    spread = max(1, round(it.spread))
    return Book(
        [it.rate * share for share in it.branching], bid, bid, bid + spread, spread, bid, 1.0, it.depth, it.depth
    )


def arrivals(base: float, branching: tuple[float, ...], decay: tuple[float, ...], excitation: list[float],
             seconds: float, random: Random) -> list[float]:  # fmt: skip
    """Times in [0, seconds) of a Hawkes process; `excitation` is carried on in place to the end of the interval.

    The next arrival is the earliest of one candidate per cause, each drawn by inversion: algorithm 3.1 of Dassios and
    Zhao 2013, "Exact simulation of Hawkes process with exponentially decaying intensity".
    """
    times: list[float] = []
    now = 0.0
    while True:
        gap = random.expovariate(base)
        for level, speed in zip(excitation, decay, strict=True):
            if level > 0.0:
                alive = 1.0 + speed * math.log(1.0 - random.random()) / level
                if alive > 0.0:
                    gap = min(gap, -math.log(alive) / speed)
        ended = now + gap >= seconds
        step = seconds - now if ended else gap
        for i, speed in enumerate(decay):
            excitation[i] *= math.exp(-speed * step)
            if not ended:
                excitation[i] += branching[i] * speed
        if ended:
            return times
        now += gap
        times.append(now)


def _requote(book: Book, it: Instrument, random: Random) -> None:
    """Let bid and ask follow the hidden price: the side that it presses on goes first, the other one catches up."""
    if random.random() < it.respread:
        book.wanted_spread = max(1, round(it.spread * math.exp(it.spread_sigma * random.gauss())))
    bid, ask = book.bid, book.ask
    off = book.hidden - 0.5 * (bid + ask)
    if ask - bid != book.wanted_spread and random.random() < it.catch_up:
        book.bid = round(book.hidden - 0.5 * book.wanted_spread)
        book.ask = book.bid + book.wanted_spread
    elif off > it.patience:
        book.ask = max(ask, round(book.hidden + 0.5 * book.wanted_spread))
    elif off < -it.patience:
        book.bid = min(bid, round(book.hidden - 0.5 * book.wanted_spread))
    if it.depth:
        book.bid_size = _depth(book.bid_size, book.bid != bid, it, random)
        book.ask_size = _depth(book.ask_size, book.ask != ask, it, random)


def _depth(size: float, moved: bool, it: Instrument, random: Random) -> float:
    """Lots at the best price: fresh at a new price, otherwise now and then a little more or less."""
    if moved:
        return max(1.0, it.depth * math.exp(random.gauss()))
    if random.random() < 0.2:
        return max(1.0, it.depth * math.pow(size / it.depth, 0.9) * math.exp(0.4 * random.gauss()))
    return size


def _trade(book: Book, it: Instrument, random: Random) -> None:
    """Set the last price and size: at bid or ask, sometimes between, beyond when the quotes are behind."""
    off = book.hidden - 0.5 * (book.bid + book.ask)
    if abs(off) > it.patience + 0.5 * (book.ask - book.bid):
        book.last = round(book.hidden)
    elif random.random() < it.inside:
        if not book.bid <= book.last <= book.ask:
            book.last = random.randint(book.bid, book.ask)
    else:
        book.last = book.ask if book.side > 0 else book.bid
    if random.random() < it.odd:
        book.last_size = random.randint(1, 99) / 100
    elif random.random() >= it.repeat:
        book.last_size = float(max(1, round(it.size * math.exp(it.size_sigma * random.gauss()))))


def _tick(book: Book, it: Instrument, ts: int) -> MarketTick:
    """The book as the feed would publish it."""
    unit = 10**it.decimals
    size = round(book.last_size * it.lot, 8) if book.trading else 0.0
    if not it.quoted:
        return MarketTick(stream=it.name, ts=ts, price=book.last / unit, size=size)
    bid, ask = book.bid / unit, book.ask / unit
    tick = MarketTick(stream=it.name, ts=ts, price=book.last / unit, size=size, bid=bid, ask=ask)
    if not it.start_trading:
        tick.price = (bid + ask) / 2
    if it.depth:
        tick.bid_size, tick.ask_size = (round(round(s) * it.lot, 8) for s in (book.bid_size, book.ask_size))
    return tick


def trade(book: Book, it: Instrument, begin: int, duration: int, random: Random) -> list[MarketTick]:
    """The ticks of one symbol from `begin` for `duration` nanoseconds, in order; `book` is carried on in place."""
    seconds = duration / 1e9
    memory = math.exp(-seconds / VOLATILITY_MEMORY_S)
    shock = VOLATILITY_SIGMA * math.sqrt(1 - memory * memory) * random.gauss()
    book.log_volatility = memory * book.log_volatility + shock
    tide = 1.0 + 0.3 * math.sin(2e-9 * math.pi * begin / TIDE_S)
    base = it.rate * (1.0 - sum(it.branching)) * tide
    home = it.price * 10**it.decimals
    ticks: list[MarketTick] = []
    for at in arrivals(base, it.branching, it.decay, book.excitation, seconds, random):
        now = begin + int(at * 1e9)
        if now - book.ts >= SAME_ORDER_NS:
            news = it.volatility * math.exp(book.log_volatility) * random.gauss()
            book.hidden += news * (4.0 if random.random() < 0.02 else 1.0) + REVERSION * (home - book.hidden)
            if random.random() < it.flip:
                book.side = -book.side
        elif book.trading:  # an order that goes on eats into the book
            book.hidden += book.side * IMPACT * it.volatility * abs(random.gauss())
        book.ts = now
        book.trading = random.random() < (1.0 - it.stop_trading if book.trading else it.start_trading)
        if not book.trading or not it.stop_trading:  # feeds of trades alone show the quote that each trade met
            _requote(book, it, random)
        if book.trading:
            _trade(book, it, random)
        ticks.append(_tick(book, it, now - now % it.clock_ns))
    return ticks
