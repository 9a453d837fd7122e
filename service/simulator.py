"""The built-in feed: a synthetic market with a fault now and then, each announced as simulated.

Time is cut in slices. The random numbers of a slice come from the seed and the slice's number alone, so a position is
small: the market as it stood before the slice, and how much of it has been read. Faults only change what the feed
reports, never the market itself: the same seed without faults gives the same ticks around them.
"""

from __future__ import annotations

import math
from random import Random

import msgspec

from service.errors import TickwatchError
from service.feed import Chunk
from service.market import INSTRUMENTS, Book, Instrument, MarketTick, opening, trade

SLICE_NS = 250_000_000
SECOND_NS = 1_000_000_000
FIRST_FAULT_S = 10
BUSY = 20.0  # ticks per second that a symbol needs to be worth a fault

# How long each kind of fault lasts, in seconds; 0 is a single tick.
FAULTS = {
    "wild print": 0.0,
    "decimal shift": 0.0,
    "stale quote": 4.0,
    "stuck price": 3.0,
    "spread blow-out": 2.0,
    "crossed book": 1.0,
    "volume spike": 0.0,
    "rate burst": 1.0,
    "feed gap": 5.0,
    "flash crash": 3.0,
    "out-of-order tick": 0.0,
}
PATIENCE_S = 2.0  # for which a single-tick fault waits for a tick on which it can show
OF_A_TRADE = ("wild print", "volume spike")
NEEDS_TRADES = (*OF_A_TRADE, "stale quote")
NEEDS_QUOTES = ("stale quote", "spread blow-out", "crossed book")

_encode = msgspec.json.Encoder().encode


class Fault(msgspec.Struct):
    """A fault of one instrument from `begin` to `end`; `strength` in [-1, 1] means what its kind makes of it."""

    kind: str
    instrument: int
    begin: int
    end: int
    strength: float
    held: MarketTick | None = None  # the first tick that it touched, as the market made it


class State(msgspec.Struct):
    """Everything that the rest of the feed depends on, as of the start of a slice."""

    seed: int
    origin: int
    slice: int
    books: list[Book]
    next_fault: int | None  # event time at which it begins; None in a market without faults
    deck: list[str]  # kinds of fault still to come before all are shuffled again
    fault: Fault | None = None


class Position(msgspec.Struct):
    """The encoded state before the slice being read, how many of its items were read, and when the last one was due."""

    state: msgspec.Raw
    read: int
    ts: int


class Item(msgspec.Struct, gc=False):
    """What comes at event time `due`: a record or a note."""

    due: int
    value: bytes | None
    note: str | None = None


def _draw_fault(state: State, begin: int) -> Fault:
    """The next kind of the deck, on a busy instrument on which it can show; the fault after it gets its time."""
    random = Random(f"{state.seed}:fault:{begin}")
    if not state.deck:
        state.deck = random.sample(sorted(FAULTS), len(FAULTS))
    kind = state.deck.pop()
    able = [
        i
        for i, it in enumerate(INSTRUMENTS)
        if it.rate >= BUSY
        and (kind not in NEEDS_TRADES or it.start_trading > 0)
        and (kind not in NEEDS_QUOTES or it.quoted)
    ]
    end = begin + int((FAULTS[kind] or PATIENCE_S) * SECOND_NS)
    state.next_fault = max(end + 2 * SECOND_NS, begin + int(random.uniform(5, 11) * SECOND_NS))
    return Fault(kind, random.choice(able), begin, end, random.uniform(-1, 1))


def _scaled(tick: MarketTick, factor: float, it: Instrument, *, quote: bool) -> MarketTick:
    """`tick` with its price, and if asked its bid and ask, times `factor`."""
    tick.price = round(tick.price * factor, it.decimals)
    if quote and tick.bid is not None and tick.ask is not None:
        tick.bid, tick.ask = round(tick.bid * factor, it.decimals), round(tick.ask * factor, it.decimals)
    return tick


def _widened(tick: MarketTick, each_side: float, it: Instrument) -> MarketTick:
    """`tick` with bid and ask moved apart by `each_side`, or together and across where that is negative."""
    if tick.bid is not None and tick.ask is not None:
        tick.bid = round(tick.bid - each_side, it.decimals)
        tick.ask = round(tick.ask + each_side, it.decimals)
    return tick


def _distort(  # noqa: C901  (one flat case per kind)
    fault: Fault, held: MarketTick, tick: MarketTick, room: int
) -> tuple[list[MarketTick], str]:
    """What the feed sends instead of `tick`, which it may change, and what is wrong with that in words.

    `held` is the first tick of the fault; `room` is the time to the symbol's next tick in nanoseconds.
    """
    it = INSTRUMENTS[fault.instrument]
    strength = abs(fault.strength)
    usual = max(it.spread, it.patience) / 10**it.decimals  # what the spread may well be
    match fault.kind:
        case "wild print":
            away = math.copysign(0.005 + 0.02 * strength, fault.strength)
            return [_scaled(tick, 1 + away, it, quote=False)], f"one trade {away:+.1%} away from the market"
        case "decimal shift":
            factor = 10.0 if fault.strength > 0 else 0.1
            return [_scaled(tick, factor, it, quote=not it.start_trading)], f"one price {factor:g} times the true one"
        case "stale quote":
            tick.bid, tick.ask, tick.bid_size, tick.ask_size = held.bid, held.ask, held.bid_size, held.ask_size
            return [tick], "bid and ask frozen while trades go on"
        case "stuck price":
            return [msgspec.structs.replace(held, ts=tick.ts)], "the same tick over and over"
        case "spread blow-out":
            factor = 4 + 8 * strength
            return [_widened(tick, factor * usual, it)], f"bid and ask {2 * factor:.0f} usual spreads further apart"
        case "crossed book":
            factor = 1.5 + 2 * strength
            return [_widened(tick, -factor * usual, it)], "bid above ask"
        case "volume spike":
            tick.size = round(it.lot * round(it.size * math.exp((5 + 2 * strength) * it.size_sigma)), 8)
            return [tick], f"one trade of {tick.size:,g}"
        case "rate burst":
            copies = 5 + round(15 * strength)
            step = room // copies
            ahead = [step * i - (tick.ts + step * i) % it.clock_ns for i in range(1, copies)]
            return [tick, *(msgspec.structs.replace(tick, ts=tick.ts + a) for a in ahead)], f"{copies} times the ticks"
        case "feed gap":
            return [], f"silent for {FAULTS[fault.kind]:g} s"
        case "flash crash":
            passed = (tick.ts - fault.begin) / (fault.end - fault.begin)
            fallen = min(passed / 0.3, (1 - passed) / 0.7)  # falls fast, recovers slower
            depth = 0.01 + 0.03 * strength
            return [_scaled(tick, 1 - depth * fallen, it, quote=True)], f"{depth:.1%} down and back up again"
        case _:  # out-of-order tick
            late = 500 + round(1500 * strength)  # whole milliseconds, as every feed's clock can say them
            return [msgspec.structs.replace(tick, ts=tick.ts - late * 1_000_000)], f"one tick {late / 1000:.1f} s late"


def _faulty(fault: Fault, ticks: list[MarketTick], end: int) -> list[Item]:
    """The items of the faulty instrument for a slice that ends at `end`, with the announcement where it begins."""
    items: list[Item] = []
    for i, tick in enumerate(ticks):
        if not fault.begin <= tick.ts < fault.end or (fault.kind in OF_A_TRADE and not tick.size):
            items.append(Item(tick.ts, _encode(tick)))
            continue
        due = tick.ts
        first = fault.held is None
        held = fault.held = fault.held or msgspec.structs.replace(tick)
        room = (ticks[i + 1].ts if i + 1 < len(ticks) else end) - due
        sent, words = _distort(fault, held, tick, room)
        if first:
            items.append(Item(due, None, f"simulated fault: {fault.kind} on {tick.stream}, {words}"))
        items += [Item(max(due, t.ts), _encode(t)) for t in sent]  # a late tick still comes when it was due
        if not FAULTS[fault.kind]:
            fault.end = due
    return items


def _advance(state: State) -> list[Item]:
    """The items of the state's slice in the order of their event time; `state` is carried on to the next slice."""
    begin = state.origin + state.slice * SLICE_NS
    end = begin + SLICE_NS
    random = Random(f"{state.seed}:{state.slice}")
    if state.next_fault is not None and state.next_fault < end:
        state.fault = _draw_fault(state, state.next_fault)
    items: list[Item] = []
    for i, (book, it) in enumerate(zip(state.books, INSTRUMENTS, strict=True)):
        ticks = trade(book, it, begin, SLICE_NS, random)
        if state.fault is not None and state.fault.instrument == i:
            items += _faulty(state.fault, ticks, end)
        else:
            items += [Item(tick.ts, _encode(tick)) for tick in ticks]
    items.sort(key=lambda item: item.due)
    state.slice += 1
    return items


class Simulator:
    """An endless `Feed` of synthetic ticks; the same `seed` and `start_ts` give the same bytes however they are read.

    Event time begins at `start_ts`, nanoseconds since 1970, in whole milliseconds. With the `position` of an earlier
    chunk the feed goes on right behind it, and seed and start are those of that feed. Without `faults` it is the same
    market, undisturbed. Raises TickwatchError for a position that is not this simulator's.
    """

    total: int | None = None

    def __init__(self, seed: int, start_ts: int, position: bytes | None = None, *, faults: bool = True) -> None:
        origin = start_ts - start_ts % 1_000_000
        first_fault = origin + FIRST_FAULT_S * SECOND_NS if faults else None
        state = State(seed, origin, 0, [opening(it) for it in INSTRUMENTS], first_fault, deck=[])
        at = Position(msgspec.Raw(msgspec.json.encode(state)), 0, origin)
        if position is not None:
            try:
                at = msgspec.json.decode(position, type=Position)
                state = msgspec.json.decode(at.state, type=State)
            except msgspec.DecodeError as error:
                raise TickwatchError(
                    f"the saved position of the market simulator is damaged: {error}; start afresh"
                ) from None
        self.start_ts = at.ts
        self._at = at
        self._state = state
        same_symbols = len(state.books) == len(INSTRUMENTS)
        self._items = _advance(state) if same_symbols else []
        if not same_symbols or not 0 <= at.read <= len(self._items):
            raise TickwatchError("the saved position is that of another market simulator; start afresh")

    def read(self, until_ts: int | None, limit: int) -> Chunk:
        """At most `limit` ticks with event time up to `until_ts` (any, if None), and notes of faults that begin."""
        at = self._at
        values: list[bytes] = []
        notes: list[str] = []
        while len(values) < limit:
            if at.read == len(self._items):
                begin = self._state.origin + self._state.slice * SLICE_NS
                if until_ts is not None and begin > until_ts:
                    break
                at.state, at.read = msgspec.Raw(msgspec.json.encode(self._state)), 0
                self._items = _advance(self._state)
                continue
            item = self._items[at.read]
            if until_ts is not None and item.due > until_ts:
                break
            at.read, at.ts = at.read + 1, item.due
            if item.value is not None:
                values.append(item.value)
            if item.note is not None:
                notes.append(item.note)
        return Chunk(values, msgspec.json.encode(at), notes)
