"""The tape lays every stream's ticks side by side without mixing them."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import TickwatchError
from training.tape import Tape, tape

LENGTHS = [5_000, 40_000, 30, 700]
CHUNK = 64


def owner(start: int) -> int:
    return int(np.searchsorted(np.cumsum(LENGTHS), start, side="right"))


@pytest.fixture(params=[None, 1, 2])
def cut(request: pytest.FixtureRequest) -> Tape:
    return tape(LENGTHS, CHUNK, 32, None if request.param is None else np.random.default_rng(request.param))


def test_no_chunk_crosses_from_one_stream_into_another(cut: Tape) -> None:
    for start, stream in zip(cut.start.ravel().tolist(), cut.stream.ravel().tolist(), strict=True):
        assert owner(start) == owner(start + CHUNK - 1) == stream


def test_a_state_is_carried_exactly_where_the_ticks_go_on(cut: Tape) -> None:
    goes_on = (np.diff(cut.start, axis=0) == CHUNK) & (np.diff(cut.stream, axis=0) == 0)
    np.testing.assert_array_equal(cut.cold[1:], ~goes_on)
    assert cut.cold[0].all()


def test_validation_reads_every_chunk_at_most_once_and_nearly_all() -> None:
    cut = tape(LENGTHS, CHUNK, 32)
    starts = cut.start.ravel()
    assert len(np.unique(starts)) == len(starts) > 0.95 * sum(LENGTHS) / CHUNK


def test_a_stream_fifty_times_as_busy_gets_about_seven_times_the_training() -> None:
    cut = tape([100_000, 2_000], CHUNK, 16, np.random.default_rng(1))
    busy, quiet = np.bincount(cut.stream.ravel())
    assert busy / quiet == pytest.approx(np.sqrt(50), rel=0.1)


def test_epochs_cut_the_same_ticks_differently() -> None:
    first, second = (tape(LENGTHS, CHUNK, 32, np.random.default_rng(seed)) for seed in (1, 2))
    assert not np.isin(first.start[:5], second.start).all()


def test_history_that_fills_no_chunk_is_a_clear_error() -> None:
    with pytest.raises(TickwatchError, match="history is too short: the longest stream leaves 40 ticks"):
        tape([40, 12], CHUNK, 32)
