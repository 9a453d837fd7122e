"""The plan covers every tick once, in order per stream, in few calls; how few is counted, so that it can't get worse unseen."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.autoencoder import Model, load
from service.blocks import MAX_STEPS, Plan, plan
from service.features import F
from tests.samples import CELLS, ROOT, shipped

DOCS = (ROOT / "docs" / "performance.md").read_text()


@st.composite
def batches(draw: st.DrawFn) -> NDArray[np.int64]:
    """The row of each tick: any number of streams, from even loads to one that dwarfs the others, in any order."""
    few = st.integers(0, 30)
    counts = draw(st.lists(few | st.integers(0, 300) | st.sampled_from([1, 2, 1023, 1024, 1025, 2100]), max_size=40))
    rows = np.repeat(np.array(draw(st.permutations(range(len(counts)))), np.int64), counts)
    if draw(st.booleans()):
        np.random.default_rng(draw(st.integers(0, 99))).shuffle(rows)
    return rows


def ticks_of(planned: Plan) -> list[NDArray[np.int64]]:
    """The ticks of each block, int64 [T, B]."""
    found, first = [], 0
    for steps, streams in planned.blocks:
        found.append(planned.order[first : first + steps * len(streams)].reshape(steps, len(streams)))
        first += steps * len(streams)
    return found


@given(batches())
def test_every_tick_is_in_exactly_one_block_and_streams_keep_their_order(rows: NDArray[np.int64]) -> None:
    seen: dict[int, list[int]] = {}
    planned = plan(rows)
    for ticks, block in zip(ticks_of(planned), planned.blocks, strict=True):
        assert len(set(block.rows.tolist())) == len(block.rows)
        for column, row in enumerate(block.rows.tolist()):
            seen.setdefault(row, []).extend(ticks[:, column].tolist())
    assert sorted(planned.order.tolist()) == list(range(len(rows)))
    assert {row: np.flatnonzero(rows == row).tolist() for row in set(rows.tolist())} == seen


@given(batches())
def test_calls_grow_with_the_digits_of_the_busiest_stream_and_steps_with_its_ticks(rows: NDArray[np.int64]) -> None:
    busiest = int(np.bincount(rows).max()) if len(rows) else 0
    steps = [block.steps for block in plan(rows).blocks]
    assert len(steps) <= busiest // MAX_STEPS + min(busiest, MAX_STEPS - 1).bit_length()
    assert sum(steps) < max(1, 2 * busiest)
    assert steps == sorted(steps, reverse=True)


@given(batches())
def test_a_run_is_as_long_as_it_can_be_so_that_no_call_could_take_its_neighbour(rows: NDArray[np.int64]) -> None:
    lengths: dict[int, list[int]] = {}
    blocks = plan(rows).blocks
    for block in blocks:
        for row in block.rows.tolist():
            lengths.setdefault(row, []).append(block.steps)
    for row, found in lengths.items():
        whole, rest = divmod(int((rows == row).sum()), MAX_STEPS)
        runs = [MAX_STEPS] * whole + [1 << k for k in range(rest.bit_length() - 1, -1, -1) if rest >> k & 1]
        if row in blocks[-1].rows:  # the last block takes all that is left of its streams
            assert found[:-1] == runs[: len(found) - 1]
            assert found[-1] == sum(runs[len(found) - 1 :])
        else:
            assert found == runs


@given(st.integers(1, 40), st.integers(1, MAX_STEPS))
def test_streams_with_equally_many_ticks_take_one_call(streams: int, ticks: int) -> None:
    assert [block.steps for block in plan(np.arange(streams * ticks) % streams).blocks] == [ticks]


def test_an_empty_batch_needs_no_call() -> None:
    assert plan(np.empty(0, np.int64)).blocks == []


def even(n: int, streams: int) -> NDArray[np.int64]:
    return np.arange(n) % streams


def zipf(n: int, streams: int) -> NDArray[np.int64]:
    """Stream k has a share of 1 / k^1.1, without any chance."""
    share = np.cumsum(np.arange(1, streams + 1) ** -1.1)
    return np.searchsorted(share / share[-1], (np.arange(n) + 0.5) / n)


LOADS = {
    "5,000 streams, even": even(5000, 5000),
    "2,000 streams, even": even(5000, 2000),
    "2,000 streams, Zipf 1.1": zipf(5000, 2000),
    "one stream": even(5000, 1),
}


@dataclass
class Counting:
    """An onnxruntime session that also notes the shape of every call."""

    session: Any
    shapes: list[tuple[int, int]] = field(default_factory=list)

    def run(self, names: list[str] | None, given: dict[str, NDArray[np.float32]]) -> Any:
        self.shapes.append(given["features"].shape[:2])
        return self.session.run(names, given)


@pytest.mark.parametrize("load_of", LOADS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_takes_exactly_the_calls_steps_and_ticks_that_the_document_says(cell: str, load_of: str) -> None:
    rows = LOADS[load_of]
    model: Model = load(shipped(cell))
    counting = Counting(model.session)
    x = np.zeros((len(rows), F), np.float32)
    replace(model, session=counting).reconstruct(x, rows, np.zeros((rows.max() + 1, model.recurrent), np.float32))
    calls, steps = len(counting.shapes), sum(t for t, _ in counting.shapes)
    ticks = sum(t * b for t, b in counting.shapes)
    waves = int(np.bincount(rows).max())
    assert f"| {load_of} | {waves:,} | {calls} | {steps:,} | {ticks / calls:,.0f} |" in DOCS
    assert ticks == len(rows)


def test_the_worked_example_of_the_document_is_what_the_plan_does() -> None:
    names = list("ABAACABADAAABAAC")
    streams = sorted(set(names))
    planned = plan(np.array([streams.index(n) for n in names]))
    found = [
        describe(ticks, [streams[row] for row in block.rows], names)
        for ticks, block in zip(ticks_of(planned), planned.blocks, strict=True)
    ]
    assert re.findall(r"^\| `\[(\d+), (\d+)\]` \| (.*) \|$", DOCS, re.MULTILINE) == found


def describe(ticks: NDArray[np.int64], streams: list[str], names: list[str]) -> tuple[str, str, str]:
    """A block as the document writes it: T, B, and of each stream which of its ticks."""
    runs = []
    for column, name in enumerate(streams):
        places = [sum(n == name for n in names[: t + 1]) for t in ticks[:, column].tolist()]
        runs.append(f"{name} {places[0]}-{places[-1]}" if len(places) > 1 else f"{name} {places[0]}")
    return str(len(ticks)), str(len(streams)), ", ".join(runs)
