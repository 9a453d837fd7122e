"""A stream is one row: taken up, saved, restored to the bit, dropped with its partition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.logs import PartitionState
from service.streams import Streams, layout

S = 64


def filled(names: list[str], partition: int = 0) -> Streams:
    streams = Streams(S)
    rows = streams.rows(np.full(len(names), partition, np.int32), names)
    rng = np.random.default_rng(1)
    streams.recurrent[rows] = rng.standard_normal((len(names), S))
    streams.features["price"][rows] = rng.standard_normal(len(names))
    streams.judge["level"][rows] = rng.standard_normal((len(names), streams.judge["level"].shape[1]))
    return streams


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=300))
def test_saved_rows_come_back_to_the_bit(names: list[str]) -> None:
    before = filled(names)
    after = Streams(S)
    for state in before.changed():
        assert state.rows.shape == (len(state.streams), before.row_bytes)
        after.load(state)
    assert len(after) == len(names)
    if names:
        assert after.packed(0, names).tobytes() == before.packed(0, names).tobytes()


def test_only_touched_rows_are_saved_and_only_once() -> None:
    streams = filled(["a", "b", "c"])
    assert [s.streams for s in streams.changed()] == [["a", "b", "c"]]
    assert streams.changed() == []
    streams.rows(np.zeros(3, np.int32), ["c", "a", "c"])
    assert [s.streams for s in streams.changed()] == [["c", "a"]]


def test_the_same_name_in_two_partitions_is_two_streams() -> None:
    streams = Streams(S)
    rows = streams.rows(np.array([0, 1, 0], np.int32), ["a", "a", "a"])
    assert rows[0] == rows[2] != rows[1]
    assert len(streams) == 2


def test_a_dropped_partition_leaves_clean_rows_behind() -> None:
    streams = filled(["a", "b"], partition=3)
    streams.drop(3)
    assert len(streams) == 0
    assert streams.changed() == []
    rows = streams.rows(np.zeros(2, np.int32), ["c", "d"])
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
    streams.rows(np.zeros(len(names), np.int32), names)
    assert streams.nbytes <= 1.15 * len(names) * streams.row_bytes


def test_the_layout_names_model_and_shape() -> None:
    assert len({layout(64, "gru-1"), layout(128, "gru-1"), layout(64, "gru-2")}) == 3
