"""A stream is one row: taken up, saved, restored to the bit, dropped with its partition, removed when nothing comes any more."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.logs import PartitionState
from service.streams import HOUR, Streams, layout
from service.ticks import NO_SEQ, NUMBERS, Ticks
from tests.samples import every

S = 64
IDLE = 10


def ticks_of(streams: list[str], partitions: list[int] | None = None, ts: list[int] | None = None) -> Ticks:
    """Ticks that differ in stream, partition and time (in hours) only."""
    n = len(streams)
    partition = np.array(partitions or [0] * n, np.int32)
    times = np.array(ts or [1] * n, np.int64) * HOUR
    numbers = dict.fromkeys(NUMBERS, np.ones(n))
    return Ticks(partition, np.arange(n), streams, times, seq=np.full(n, NO_SEQ), **numbers)


def filled(names: list[str], partition: int = 0) -> Streams:
    streams = Streams(S)
    rows = streams.rows(ticks_of(names, [partition] * len(names)))
    rng = np.random.default_rng(1)
    streams.recurrent[rows] = rng.standard_normal((len(names), S))
    streams.features["price"][rows] = rng.standard_normal(len(names))
    streams.judge["level"][rows] = rng.standard_normal((len(names), streams.judge["level"].shape[1]))
    return streams


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=300), st.booleans())
def test_saved_rows_come_back_to_the_bit(names: list[str], late: bool) -> None:
    before = filled(names)
    after = Streams(S)
    for state in before.changed(late=late):
        assert state.rows[:].shape == (len(state.streams), before.row_bytes)
        assert (state.rows[1:3] == state.rows[:][1:3]).all()
        after.load(state)
    assert len(after) == len(names)
    if names:
        assert after.packed(0, names).tobytes() == before.packed(0, names).tobytes()


def test_only_touched_rows_are_saved_and_only_once() -> None:
    streams = filled(["a", "b", "c"])
    assert [s.streams for s in streams.changed()] == [["a", "b", "c"]]
    assert streams.changed() == []
    streams.rows(ticks_of(["c", "a", "c"]))
    assert [s.streams for s in streams.changed()] == [["c", "a"]]


def test_rows_stay_as_they_were_saved_unless_they_are_packed_late() -> None:
    streams = filled(["a", "b"])
    (saved,) = streams.changed()
    row = streams.rows(ticks_of(["a"]))
    (late,) = streams.changed(late=True)
    streams.recurrent[row] += 1
    assert saved.rows[:1].tobytes() != streams.packed(0, ["a"]).tobytes() == late.rows[:1].tobytes()


def test_the_same_name_in_two_partitions_is_two_streams() -> None:
    streams = Streams(S)
    rows = streams.rows(ticks_of(["a", "a", "a"], [0, 1, 0]))
    assert rows[0] == rows[2] != rows[1]
    assert len(streams) == 2


def test_a_dropped_partition_leaves_clean_rows_behind() -> None:
    streams = filled(["a", "b"], partition=3)
    streams.drop(3)
    assert len(streams) == 0
    assert streams.changed() == []
    rows = streams.rows(ticks_of(["c", "d"], [3, 3]))
    assert not streams.recurrent[rows].any()
    assert streams.features["seen"][rows].sum() == 0


def test_loading_replaces_what_was_held_of_the_partition() -> None:
    streams = filled(["old"])
    streams.load(PartitionState(0, ["new"], np.zeros((1, streams.row_bytes), np.uint8)))
    assert len(streams) == 1
    streams.load(PartitionState(0, [], np.zeros((0, 0), np.uint8)))
    assert len(streams) == 0


def test_memory_grows_in_proportion_to_streams() -> None:
    streams = Streams(S)
    names = [str(i) for i in range(20_000)]
    streams.rows(ticks_of(names))
    assert streams.nbytes <= 1.15 * len(names) * streams.row_bytes


class Plain:
    """Which ticks begin their stream anew and which are refused, one tick after another, with nothing ever removed early."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.clock: dict[int, int] = {}
        self.last: dict[tuple[int, str], tuple[int, int, int]] = {}  # clock, newest ts, time reported and not confirmed

    def age(self, p: int, name: str, ts: int, ages: dict[tuple[int, str], int]) -> int | None:
        """Ticks that the stream's row has seen before this one; None if it is refused."""
        clock = self.clock.get(p, 0)
        if (p, name) not in self.last or clock - self.last[p, name][0] > IDLE:
            live = sum(q == p and clock - then <= IDLE for (q, _), (then, _, _) in self.last.items())
            if self.most is not None and live >= self.most:
                return None
            self.last[p, name], ages[p, name] = (clock, ts, 0), 0
        else:
            then, newest, owed = self.last[p, name]
            if ts > newest:
                clock, owed, newest = max(clock, then + owed), min(ts - newest, IDLE + 1), ts
            elif ts < newest:
                owed = 0
            self.last[p, name] = clock, newest, owed
        self.clock[p] = clock
        ages[p, name] += 1
        return ages[p, name] - 1


MOVES = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("abcdef"), st.integers(-3, 9)), min_size=1, max_size=150)


@settings(max_examples=300, deadline=None)
@given(MOVES, st.integers(1, 20), st.sampled_from([None, 2, 3]), st.randoms(use_true_random=False))
def test_who_begins_anew_and_who_is_refused_depends_on_the_ticks_alone(
    moves: list[tuple[int, str, int]], step: int, most: int | None, random: Random
) -> None:
    time = 50
    plain, ages, expected, hours = Plain(most), dict[tuple[int, str], int](), [], []
    for p, name, move in moves:
        time += move * random.choice([0, 1, 1, 4])
        hours.append(max(time, 1) + 80_000 * (name == "f"))  # one feed is of another year
        expected.append(plain.age(p, name, hours[-1], ages))
    ticks = ticks_of([name for _, name, _ in moves], [p for p, _, _ in moves], hours)
    streams, found = Streams(S, IDLE, most), list[int | None]()
    saved: dict[tuple[int, str], bytes] = {}
    for batch in every(ticks, step):
        rows = streams.rows(batch)
        for row in rows.tolist():
            found.append(None if row < 0 else int(streams.features["seen"][row]))
            if row >= 0:
                streams.features["seen"][row] += 1
        if random.random() < 0.5:
            continue
        for state in streams.changed():
            saved |= {(state.partition, n): r.tobytes() for n, r in zip(state.streams, state.rows[:], strict=True)}
            for name in state.removed:
                saved.pop((state.partition, name), None)
        assert len(streams) == len(saved)
        if random.random() < 0.5:  # another worker goes on with what was saved
            streams = Streams(S, IDLE, most)
            for p in (0, 1):
                names = [n for q, n in saved if q == p]
                table = np.frombuffer(b"".join(saved[p, n] for n in names), np.uint8)
                streams.load(PartitionState(p, names, table.reshape(len(names), streams.row_bytes)))
    assert found == expected


def aged(*ticks: tuple[str, int]) -> tuple[set[str], list[str]]:
    """(streams held, streams removed) after ticks (stream, hour) in one partition."""
    streams = Streams(S, IDLE)
    streams.rows(ticks_of([name for name, _ in ticks], None, [hour for _, hour in ticks]))
    (state,) = streams.changed()
    return set(state.streams), state.removed


def test_a_stream_without_a_tick_for_too_long_is_removed() -> None:
    assert aged(("a", 1), ("b", 1), ("b", 12), ("b", 13)) == ({"b"}, ["a"])
    assert aged(("a", 1), ("b", 1), ("b", 11), ("b", 12)) == ({"a", "b"}, [])


def test_one_wild_timestamp_removes_nobody() -> None:
    assert aged(("a", 1), ("b", 1), ("b", 900_000), ("b", 2), ("b", 3), ("a", 2)) == ({"a", "b"}, [])


def test_feeds_of_different_years_share_a_partition() -> None:
    assert aged(*[(name, hour + 9000 * (name == "b")) for hour in range(1, 9) for name in "ab"]) == ({"a", "b"}, [])


def test_without_a_limit_of_idleness_nothing_is_ever_removed() -> None:
    streams = Streams(S)
    streams.rows(ticks_of(["a", "b", "b", "b"], None, [1, 1, 500_000, 900_000]))
    assert [s.removed for s in streams.changed()] == [[]]


def test_the_layout_names_model_and_shape() -> None:
    assert len({layout(64, "gru-1"), layout(128, "gru-1"), layout(64, "gru-2")}) == 3
