"""The same ticks give the same bits, however they are batched, interleaved, cut, saved and restored."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.autoencoder import Model, load
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import CELLS, ROOT, every, random_ticks, shipped

COMPILED = """
import numpy as np
from numba.core.dispatcher import Dispatcher
from service import blocks, features, idle, judge
from service.autoencoder import load
from service.scorer import Scorer, warm_up
from tests.samples import random_ticks, shipped

def kernels():
    modules = (blocks, features, idle, judge)
    every = [(module.__name__ + "." + name, found) for module in modules for name, found in vars(module).items()]
    return {name: len(found.signatures) for name, found in every if isinstance(found, Dispatcher)}

warm_up(load(shipped("gru")))
before = kernels()
for n in (1, 400):
    Scorer(load(shipped("gru")), 20).score(random_ticks(n, streams=7, partitions=2))
assert kernels() == before, f"{before} before, {kernels()} after"
print(*sorted(name for name, signatures in before.items() if signatures))
"""
TICKS = random_ticks(1500, streams=7, partitions=2)
ONE = random_ticks(800, streams=1, seed=3)
MODELS = {cell: load(shipped(cell)) for cell in CELLS}


@pytest.fixture(params=CELLS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def scores(scorer: Scorer, batches: list[Ticks]) -> NDArray[np.float64]:
    return np.concatenate([scorer.score(batch).verdicts.score for batch in batches])


def test_a_warm_scorer_never_waits_for_the_compiler() -> None:
    ended = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    kernels = ["blocks._cut", "blocks.edges", "features._kernel", "idle.live", "judge._kernel"]
    assert ended.stdout.split() == [f"service.{name}" for name in kernels]


@pytest.mark.parametrize("step", [1, 13, 500])
def test_batch_size_changes_no_bit_of_score_or_state(model: Model, step: int) -> None:
    whole, cut = Scorer(model, 20), Scorer(model, 20)
    ticks = TICKS.take(np.arange(400)) if step == 1 else TICKS
    assert np.array_equal(scores(whole, [ticks]), scores(cut, every(ticks, step)))
    assert state(whole) == state(cut)


def state(scorer: Scorer) -> dict[tuple[int, str], bytes]:
    return {
        (s.partition, name): row.tobytes()
        for s in scorer.streams.changed()
        for name, row in zip(s.streams, s.rows[:], strict=True)
    }


def test_other_streams_in_the_batch_change_no_bit(model: Model) -> None:
    together = Scorer(model, 20).score(TICKS).verdicts.score
    for name in set(TICKS.stream):
        at = np.array([i for i, s in enumerate(TICKS.stream) if s == name])
        assert np.array_equal(Scorer(model, 20).score(TICKS.take(at)).verdicts.score, together[at])


@settings(deadline=None, max_examples=15)
@given(cut=st.integers(0, len(TICKS)), cell=st.sampled_from(CELLS))
def test_a_restored_worker_goes_on_with_the_same_bits(cut: int, cell: str) -> None:
    model = MODELS[cell]
    first, second = TICKS.take(np.arange(cut)), TICKS.take(np.arange(cut, len(TICKS)))
    steady, crashed, restored = Scorer(model, 20), Scorer(model, 20), Scorer(model, 20)
    crashed.score(first)
    for saved in crashed.streams.changed():
        restored.streams.load(saved)
    assert np.array_equal(scores(steady, [first, second])[cut:], scores(restored, [second]))


@settings(deadline=None, max_examples=25)
@given(
    again=st.lists(st.tuples(st.integers(0, len(ONE) - 1), st.integers(0, 60)), max_size=20),
    cell=st.sampled_from(CELLS),
)
@example(again=[(400, 1), (400, 1)], cell="gru")  # late by the newest tick alone, which was not ahead
def test_ticks_that_come_again_change_no_score_of_the_others(again: list[tuple[int, int]], cell: str) -> None:
    """Each of `again` is the place of a tick and how many ticks later it comes a second time."""
    key = [*((i, 0) for i in range(len(ONE))), *((min(i + later, len(ONE) - 1), 1) for i, later in again)]
    source = np.array([*range(len(ONE)), *(i for i, _ in again)])
    order = np.array(sorted(range(len(key)), key=lambda k: key[k]))
    found = Scorer(MODELS[cell], 20).score(ONE.take(source[order]))
    once = order < len(ONE)
    assert np.array_equal(found.verdicts.score[once], Scorer(MODELS[cell], 20).score(ONE).verdicts.score)
    assert np.array_equal(found.features.folded, once)


def test_a_budget_ten_times_as_large_lowers_the_threshold(model: Model) -> None:
    assert Scorer(model, 2).threshold > Scorer(model, 20).threshold > Scorer(model, 200).threshold


def test_the_alert_budget_moves_the_threshold_and_no_score(model: Model) -> None:
    verdicts = [Scorer(model, budget).score(TICKS).verdicts for budget in (1, 1000)]
    assert np.array_equal(verdicts[0].score, verdicts[1].score)
    assert verdicts[0].alert.sum() <= verdicts[1].alert.sum()


def test_an_empty_batch_is_scored_as_nothing(model: Model) -> None:
    assert len(Scorer(model, 20).score(TICKS.take(np.arange(0))).verdicts.score) == 0
