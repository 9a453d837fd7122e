"""The plan covers every tick once, in order per stream, in few calls."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.blocks import MAX_STEPS, plan

batches = st.lists(st.integers(0, 30), max_size=400).map(lambda rows: np.array(rows, np.int64))


@given(batches)
def test_every_tick_is_in_exactly_one_block_and_streams_keep_their_order(rows: np.ndarray) -> None:
    seen: dict[int, list[int]] = {}
    for block in plan(rows):
        assert len(set(block.rows.tolist())) == block.ticks.shape[1] == len(block.rows)
        for column, row in enumerate(block.rows.tolist()):
            seen.setdefault(row, []).extend(block.ticks[:, column].tolist())
    assert {row: np.flatnonzero(rows == row).tolist() for row in set(rows.tolist())} == seen


@given(batches)
def test_a_batch_takes_at_most_one_call_per_binary_digit_of_its_busiest_stream(rows: np.ndarray) -> None:
    busiest = int(np.bincount(rows).max()) if len(rows) else 0
    assert len(plan(rows)) <= busiest.bit_length()


def test_calls_stay_few_for_one_hot_stream_a_zipf_mixture_and_an_even_load() -> None:
    rng = np.random.default_rng(0)
    zipf = np.minimum(rng.zipf(1.1, 5000), 2000)
    for rows in (np.zeros(5000), zipf, rng.integers(0, 2000, 5000), np.arange(5000)):
        assert len(plan(rows.astype(np.int64))) <= math.ceil(5000 / MAX_STEPS) + 10


def test_an_empty_batch_needs_no_call() -> None:
    assert plan(np.empty(0, np.int64)) == []
