"""The built-in market: the same bytes for the same seed, habits of real ticks, faults that are announced and show."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.logs import Records
from service.market import INSTRUMENTS, MarketTick
from service.simulator import FAULTS, FIRST_FAULT_S, Simulator
from service.ticks import decode

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
RUN_S = 150  # long enough for every kind of fault
STEP_NS = SECOND // 20


@dataclass(frozen=True)
class Run:
    """The ticks of each stream in the order sent, all of them, and each note with the event time at which it came."""

    streams: dict[str, list[MarketTick]]
    ticks: list[MarketTick]
    values: list[bytes]
    notes: list[tuple[int, str]]


def run_of(simulator: Simulator) -> Run:
    run = Run(defaultdict(list), [], [], [])
    for until in range(START + STEP_NS, START + RUN_S * SECOND + 1, STEP_NS):
        chunk = simulator.read(until, 1_000_000)
        run.values.extend(chunk.values)
        run.notes.extend((until, note) for note in chunk.notes)
    run.ticks.extend(msgspec.json.decode(value, type=MarketTick) for value in run.values)
    for tick in run.ticks:
        run.streams[tick.stream].append(tick)
    return run


@pytest.fixture(scope="module")
def faulty() -> Run:
    return run_of(Simulator(seed=7, start_ts=START))


@pytest.fixture(scope="module")
def calm() -> Run:
    return run_of(Simulator(seed=7, start_ts=START, faults=False))


@pytest.fixture(scope="module")
def before_the_first_fault() -> bytes:
    simulator = Simulator(seed=5, start_ts=START)
    return simulator.read(START + (FIRST_FAULT_S - 1) * SECOND, 1_000_000).position


def read_to(simulator: Simulator, until: int) -> tuple[list[bytes], list[str], bytes]:
    chunk = simulator.read(until, 1_000_000)
    return chunk.values, chunk.notes, chunk.position


steps = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 3_000), st.booleans()), max_size=12)


@given(steps)
@settings(max_examples=25, deadline=None)
def test_any_way_of_reading_and_resuming_gives_the_same_bytes(
    before_the_first_fault: bytes, steps: list[tuple[int, int, bool]]
) -> None:
    end = START + (FIRST_FAULT_S + 8) * SECOND
    whole = read_to(Simulator(0, 0, before_the_first_fault), end)
    feed = Simulator(0, 0, before_the_first_fault)
    values: list[bytes] = []
    notes: list[str] = []
    until = feed.start_ts
    for step, limit, resumed in steps:
        until = min(end, until + step)
        chunk = feed.read(until, limit)
        assert len(chunk.values) <= limit
        values += chunk.values
        notes += chunk.notes
        if resumed:
            feed = Simulator(0, 0, chunk.position)
    rest = read_to(feed, end)
    assert (values + rest[0], notes + rest[1], rest[2]) == whole
    assert whole[1]


def test_without_a_time_it_reads_up_to_the_limit_and_never_ends() -> None:
    timed, endless = (Simulator(seed=1, start_ts=START) for _ in range(2))
    values = endless.read(None, 2_000).values
    assert len(values) == 2_000
    assert values == timed.read(START + 60 * SECOND, 2_000).values
    assert endless.total is None


def test_a_seed_is_a_market_of_its_own() -> None:
    one, same, other = (Simulator(seed, START).read(None, 500).values for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_resumed_feed_starts_where_the_first_one_stood() -> None:
    chunk = Simulator(seed=1, start_ts=START).read(None, 700)
    last = msgspec.json.decode(chunk.values[-1], type=MarketTick)
    assert Simulator(seed=1, start_ts=0, position=chunk.position).start_ts == last.ts


@pytest.mark.parametrize("position", [b"", b"{}", b"\xff", b'{"state":{"books":[]},"read":0,"ts":0}'])
def test_a_position_of_something_else_is_refused_in_words(position: bytes) -> None:
    with pytest.raises(TickwatchError, match=r"saved position.*start afresh"):
        Simulator(seed=1, start_ts=START, position=position)


@pytest.mark.parametrize(("of", "becomes"), [(b'"read":5', b'"read":999999'), (b'"books":[{', b'"books":[],"x":[{')])
def test_a_position_of_another_simulator_is_refused_in_words(of: bytes, becomes: bytes) -> None:
    position = Simulator(seed=1, start_ts=START).read(None, 5).position
    assert of in position
    with pytest.raises(TickwatchError, match=r"saved position.*start afresh"):
        Simulator(1, START, position.replace(of, becomes))


def test_every_record_is_a_tick_that_the_decoder_accepts(faulty: Run) -> None:
    n = len(faulty.values)
    records = Records(np.zeros(n, np.int32), np.arange(n), [None] * n, list(faulty.values))
    ticks, dead = decode(records)
    assert (len(ticks), dead) == (n, [])
    assert set(ticks.stream) == {it.name for it in INSTRUMENTS}
    assert all(name.startswith("SIM:") for name in faulty.streams)


def test_symbols_differ_in_activity(calm: Run) -> None:
    rates = {name: len(ticks) / RUN_S for name, ticks in calm.streams.items()}
    assert 400 < sum(rates.values()) < 900
    assert min(rates.values()) < 1.5
    assert max(rates.values()) > 80


def test_ticks_come_in_the_order_of_their_time(calm: Run) -> None:
    ts = [tick.ts for tick in calm.ticks]
    assert ts == sorted(ts)
    assert START <= ts[0] <= ts[-1] <= START + RUN_S * SECOND


def column(ticks: list[MarketTick], name: str) -> NDArray[np.float64]:
    return np.array([getattr(tick, name) for tick in ticks], dtype=np.float64)


def autocorrelation(x: NDArray[np.float64], lag: int = 1) -> float:
    return float(np.corrcoef(x[lag:], x[:-lag])[0, 1])


@pytest.mark.parametrize("name", ["SIM:BTC", "SIM:ETH", "SIM:SOL", "SIM:ACME", "SIM:CRUX", "SIM:GOLD", "SIM:EURUSD"])
def test_arrivals_are_clustered(calm: Run, name: str) -> None:
    gaps = np.diff(column(calm.streams[name], "ts"))
    assert gaps.std() / gaps.mean() > 1.4  # 1 if they came by chance
    blocks = gaps[: len(gaps) // 20 * 20].reshape(-1, 20).sum(axis=1)
    assert autocorrelation(np.log(blocks + 1)) > 0.1


@pytest.mark.parametrize("name", ["SIM:ACME", "SIM:BOLT", "SIM:CRUX", "SIM:GOLD"])
def test_trades_bounce_between_bid_and_ask(calm: Run, name: str) -> None:
    moves = np.diff(column(calm.streams[name], "price"))
    assert autocorrelation(moves) < -0.05
    assert 0.35 < (moves == 0).mean() < 0.95


def test_volatility_comes_in_clusters(calm: Run) -> None:
    moves = np.abs(np.diff(column(calm.streams["SIM:EURUSD"], "price")))
    blocks = moves[: len(moves) // 50 * 50].reshape(-1, 50).sum(axis=1)
    assert autocorrelation(blocks) > 0.3


@pytest.mark.parametrize("name", ["SIM:BTC", "SIM:ACME", "SIM:CRUX", "SIM:EURUSD"])
def test_an_undisturbed_book_is_never_crossed_and_its_spread_varies(calm: Run, name: str) -> None:
    ticks = calm.streams[name]
    spread = column(ticks, "ask") - column(ticks, "bid")
    assert spread.min() > 0
    assert len(np.unique(spread.round(6))) > 1


def test_sizes_are_round_lots_with_a_heavy_tail(calm: Run) -> None:
    sizes = column(calm.streams["SIM:ACME"], "size")
    assert 0.8 < (sizes % 100 == 0).mean() < 1
    assert np.quantile(sizes, 0.99) > 10 * np.median(sizes)


def test_feeds_differ_in_what_they_say(calm: Run) -> None:
    gold, euro, coin = (calm.streams[f"SIM:{name}"] for name in ("GOLD", "EURUSD", "BTC"))
    assert {(tick.bid, tick.ask) for tick in gold} == {(None, None)}
    assert {tick.size for tick in euro} == {0.0}
    assert 0.1 < np.mean([tick.size > 0 for tick in coin]) < 0.4
    assert all(tick.bid_size and tick.ask_size for tick in coin)


def test_the_first_fault_comes_after_ten_seconds_and_others_follow(faulty: Run, calm: Run) -> None:
    times = [(at - START) / SECOND for at, _ in faulty.notes]
    assert 10 <= times[0] < 13
    assert sum(t <= 30 for t in times) >= 3
    assert np.diff(times).max() < 16
    assert not calm.notes


def test_every_kind_of_fault_is_announced_as_simulated(faulty: Run) -> None:
    assert all(note.startswith("simulated fault: ") for _, note in faulty.notes)
    assert {kind_and_stream(note)[0] for _, note in faulty.notes} == set(FAULTS)


def kind_and_stream(note: str) -> tuple[str, str]:
    kind, _, rest = note.removeprefix("simulated fault: ").partition(" on ")
    return kind, rest.partition(",")[0]


def test_a_fault_changes_only_what_was_announced(faulty: Run, calm: Run) -> None:
    announced: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for at, note in faulty.notes:
        kind, stream = kind_and_stream(note)
        announced[stream].append((at - STEP_NS, at + int(FAULTS[kind] * SECOND)))
    for stream, ticks in calm.streams.items():
        sent = set(map(msgspec.json.encode, faulty.streams[stream]))
        for tick in ticks:
            if not any(begin <= tick.ts <= end for begin, end in announced[stream]):
                assert msgspec.json.encode(tick) in sent


def first(faulty: Run, kind: str) -> tuple[int, str]:
    """When the first fault of that kind was announced, and on which stream."""
    return next((at, kind_and_stream(note)[1]) for at, note in faulty.notes if kind_and_stream(note)[0] == kind)


def around(run: Run, faulty: Run, kind: str) -> list[MarketTick]:
    """The ticks of `run` at the time of the first fault of that kind, on its stream."""
    at, stream = first(faulty, kind)
    end = at + int(FAULTS[kind] * SECOND)
    return [tick for tick in run.streams[stream] if at - STEP_NS <= tick.ts <= end]


@pytest.mark.parametrize("kind", ["wild print", "decimal shift", "volume spike", "out-of-order tick"])
def test_a_fault_of_one_tick_touches_one_tick(faulty: Run, calm: Run, kind: str) -> None:
    at, name = first(faulty, kind)
    sent, true = (
        Counter(msgspec.json.encode(tick) for tick in run.streams[name] if at - 2.1 * SECOND <= tick.ts <= at)
        for run in (faulty, calm)
    )
    (odd,), (replaced,) = (
        [msgspec.json.decode(value, type=MarketTick) for value in extra.elements()]
        for extra in (sent - true, true - sent)
    )
    if kind == "wild print":
        assert abs(odd.price / replaced.price - 1) > 0.004
        assert (odd.bid, odd.ask) == (replaced.bid, replaced.ask)
    elif kind == "decimal shift":
        assert odd.price / replaced.price == pytest.approx(10, rel=0.1) or odd.price < 0.11 * replaced.price
    elif kind == "volume spike":
        assert odd.size > 2 * max(tick.size for tick in calm.streams[name])
    else:
        stream = faulty.streams[name]
        assert 0.5 * SECOND <= replaced.ts - odd.ts <= 2 * SECOND
        assert stream[stream.index(odd) - 1].ts > odd.ts


def inner(ticks: list[MarketTick]) -> list[MarketTick]:
    """Without the ends, which may lie just outside a fault: its time is known to 50 ms only."""
    return [tick for tick in ticks if ticks[0].ts + 2 * STEP_NS < tick.ts < ticks[-1].ts - 2 * STEP_NS]


def test_a_stale_quote_stands_still_while_trades_go_on(faulty: Run, calm: Run) -> None:
    sent, true = (inner(around(run, faulty, "stale quote")) for run in (faulty, calm))
    assert len({(tick.bid, tick.ask, tick.bid_size, tick.ask_size) for tick in sent}) == 1
    assert [tick.price for tick in sent] == [tick.price for tick in true]


def test_a_stuck_price_repeats_one_tick(faulty: Run) -> None:
    sent = inner(around(faulty, faulty, "stuck price"))
    assert len(sent) > 10
    assert len({(tick.price, tick.size, tick.bid, tick.ask) for tick in sent}) == 1


def test_a_blown_out_spread_is_wide_and_a_crossed_book_is_negative(faulty: Run, calm: Run) -> None:
    def spreads(run: Run, kind: str) -> NDArray[np.float64]:
        ticks = inner(around(run, faulty, kind))
        return column(ticks, "ask") - column(ticks, "bid")

    assert spreads(faulty, "spread blow-out").min() > 3 * np.median(spreads(calm, "spread blow-out"))
    assert spreads(faulty, "crossed book").max() < 0 < spreads(calm, "crossed book").min()


def test_a_rate_burst_multiplies_the_ticks_and_a_gap_has_none(faulty: Run, calm: Run) -> None:
    burst, usual = (len(inner(around(run, faulty, "rate burst"))) for run in (faulty, calm))
    assert burst >= 5 * usual > 0
    at, stream = first(faulty, "feed gap")
    silent = range(at, at + int((FAULTS["feed gap"] - 0.1) * SECOND))
    assert not any(tick.ts in silent for tick in faulty.streams[stream])
    assert sum(tick.ts in silent for tick in calm.streams[stream]) > 30


def test_a_flash_crash_falls_and_comes_back(faulty: Run, calm: Run) -> None:
    sent, true = (column(inner(around(run, faulty, "flash crash")), "price") for run in (faulty, calm))
    ratio = sent / true
    assert ratio.min() < 0.992
    assert ratio[-1] > ratio.min() + 0.005
    assert 0 < ratio.argmin() < 0.7 * len(ratio)


def test_a_tick_costs_far_less_than_its_scoring_may() -> None:
    simulator = Simulator(seed=1, start_ts=START)
    began = time.process_time()
    simulator.read(None, 20_000)
    assert (time.process_time() - began) / 20_000 < 20e-6
