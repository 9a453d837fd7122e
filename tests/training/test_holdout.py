"""What is held out comes after everything that is learned from, in every stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.errors import TickwatchError
from tests.samples import random_ticks
from training.history import History, fingerprint, gather, read_history
from training.holdout import hold_out
from training.topic import keep

STREAMS = gather([random_ticks(5_000, streams=7)])
HISTORY = History(STREAMS, 3, fingerprint(STREAMS), "made up")


def times(history: History) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.concatenate([ticks.ts for ticks in history.streams.values()])


def test_one_moment_parts_what_is_learned_from_and_what_is_held_out() -> None:
    before, after = hold_out(HISTORY, 0.2)
    assert times(before).max() < times(after).min()
    assert before.ticks + after.ticks == HISTORY.ticks
    assert after.ticks == pytest.approx(0.2 * HISTORY.ticks, abs=10)
    for name, ticks in STREAMS.items():
        parts = [history.streams[name].ts for history in (before, after)]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.sort(ticks.ts))


def test_a_model_can_be_told_from_one_that_has_seen_all(tmp_path: Path) -> None:
    before, after = hold_out(HISTORY, 0.2)
    assert len({part.fingerprint for part in (before, after, HISTORY)}) == 3
    keep(after, tmp_path / "held-out.parquet")
    assert read_history(tmp_path / "held-out.parquet").fingerprint == after.fingerprint


def test_nothing_to_learn_from_is_told() -> None:
    streams = {name: ticks.take(np.arange(1)) for name, ticks in list(STREAMS.items())[:1]}
    with pytest.raises(TickwatchError, match="too short to hold out 20%"):
        hold_out(History(streams, 0, "", ""), 0.2)
