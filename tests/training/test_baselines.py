"""Every baseline is a fair rival: causal, fitted on what it may see, and better than chance on what is plain to see."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.samples import random_ticks, with_numbers
from training.baselines import BASELINES
from training.evaluate import Candidate
from training.linear import no_network

HEAD = 1_500
TICKS = random_ticks(3_000, streams=1)
PRINTS = range(1_700, 2_900, 100)


@cache
def candidate(name: str) -> Candidate:
    return BASELINES[name]([random_ticks(3_000, streams=1, seed=1), random_ticks(2_500, streams=1, seed=2)])


@pytest.mark.parametrize("name", BASELINES)
def test_the_scores_of_a_prefix_are_the_prefix_of_the_scores(name: str) -> None:
    detector = candidate(name).prepare(TICKS.take(np.arange(HEAD)))
    whole = detector(TICKS)
    assert np.isfinite(whole).all()
    for rows in (HEAD + 1, 2_345):
        prefix = detector(TICKS.take(np.arange(rows)))
        np.testing.assert_allclose(prefix, whole[:rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_an_obvious_print_scores_above_the_ticks_before_it(name: str) -> None:
    ticks = TICKS
    for at in PRINTS:
        ticks = with_numbers(ticks, at, price=ticks.price[at] * 1.5, size=100.0)
    score = candidate(name).prepare(ticks.take(np.arange(HEAD)))(ticks)
    above = [bool(score[at] > np.median(score[at - 60 : at])) for at in PRINTS]
    assert sum(above) >= 10  # of 12; 2 % by chance


@pytest.mark.parametrize("name", BASELINES)
def test_what_comes_after_the_head_teaches_a_fitted_baseline_nothing(name: str) -> None:
    head = TICKS.take(np.arange(HEAD))
    detector = candidate(name).prepare(head)
    first = detector(TICKS)
    detector(random_ticks(2_000, streams=1, seed=9))
    np.testing.assert_array_equal(detector(TICKS), first)


def test_without_a_network_the_judge_still_promises_an_alert_budget() -> None:
    promise = no_network([random_ticks(6_000, streams=1)]).threshold
    assert promise is not None
    assert promise(5.0) > promise(50.0) > promise(500.0) > 0
