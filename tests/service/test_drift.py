"""Drift is what the published statistic says it is, of the ticks of the last hours, and stays quiet where it can't know."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.autoencoder import load
from service.card import Population
from service.drift import ENOUGH, EVERY, HALF_LIFE_SECONDS, NAMES, Drift
from service.scorer import Scored, Scorer
from tests.samples import random_ticks, shipped

MANY = EVERY * ENOUGH
EDGES = (-1.0, 0.0, 2.0)
SHARES = (0.1, 0.5, 0.3, 0.1)
TRAINED = [Population(EDGES, SHARES)] * len(NAMES)


@pytest.fixture(scope="module")
def scored() -> Scored:
    return Scorer(load(shipped("gru")), 20).score(random_ticks(500))


def with_values(scored: Scored, values: NDArray[np.float64], **features: Any) -> Scored:
    """As if all features and the scores of the ticks had these values float64 [N]."""
    observed = np.repeat(values[:, None], len(NAMES) - 1, axis=1).astype(np.float32)
    found = replace(scored.features, **{"observed": observed, "folded": np.ones(len(values), np.bool_)} | features)
    return replace(scored, features=found, verdicts=replace(scored.verdicts, score=values))


def drift(of: Scored, clock: Any = lambda: 0.0, ticks: int = MANY) -> Drift:
    counted = Drift(clock)
    counted.expect(TRAINED)
    for _ in range(ticks // len(of.ticks)):
        counted.observe(of)
    return counted


def values(shares: tuple[float, ...]) -> NDArray[np.float64]:
    """500 values of which so many lie in each bin; those that equal an edge lie below it."""
    inside = (-1.0, -0.5, 2.0, 3.0)
    return np.repeat(inside, [round(500 * share) for share in shares])


def test_the_index_is_that_of_the_literature_and_nought_where_nothing_changed(scored: Scored) -> None:
    moved = (0.2, 0.2, 0.4, 0.2)
    expected = sum((q - p) * math.log(q / p) for p, q in zip(SHARES, moved, strict=True))
    assert drift(with_values(scored, values(SHARES))).psi() == pytest.approx(dict.fromkeys(NAMES, 0.0))
    assert drift(with_values(scored, values(moved))).psi() == pytest.approx(dict.fromkeys(NAMES, expected))


def test_a_bin_that_has_become_empty_makes_it_large_and_not_infinite(scored: Scored) -> None:
    assert 1.0 < drift(with_values(scored, values((0.0, 0.0, 0.0, 1.0)))).psi()["score"] < 10.0


def test_too_few_ticks_missing_features_and_models_that_do_not_tell_have_no_index(scored: Scored) -> None:
    usual = with_values(scored, values(SHARES))
    missing = usual.features.observed.copy()
    missing[:, NAMES.index("spread")] = np.nan
    found = drift(with_values(scored, values(SHARES), observed=missing)).psi()
    assert [name for name, index in found.items() if math.isnan(index)] == ["spread"]
    assert all(map(math.isnan, drift(usual, ticks=MANY // 2).psi().values()))
    silent = Drift()
    silent.expect(())
    for _ in range(MANY // 500):
        silent.observe(usual)
    assert all(map(math.isnan, silent.psi().values()))


def test_late_and_repeated_ticks_do_not_count(scored: Scored) -> None:
    missing = np.full_like(scored.features.observed, np.nan)
    neither = with_values(scored, values(SHARES), observed=missing, folded=np.zeros(500, np.bool_))
    assert math.isnan(drift(neither).psi()["score"])


def test_what_was_long_ago_is_forgotten(scored: Scored) -> None:
    now = 0.0
    counted = drift(with_values(scored, values((0.0, 0.0, 0.0, 1.0))), lambda: now)
    before = counted.psi()["score"]
    now = 20 * HALF_LIFE_SECONDS
    usual = with_values(scored, values(SHARES))
    counted.observe(usual)
    assert math.isnan(counted.psi()["score"])
    for _ in range(MANY // 500 + EVERY):
        counted.observe(usual)
    assert counted.psi()["score"] < 0.01 < before


@pytest.mark.parametrize("size", [1, 50, 500])
def test_batches_of_any_size_are_counted_as_often(scored: Scored, size: int) -> None:
    part = with_values(scored, values(SHARES)).take(np.arange(size))
    counted = drift(part, ticks=320_000 if size > 1 else 32_000)
    share = counted._counts[0].sum() / (320_000 if size > 1 else 32_000)
    assert share == pytest.approx(1 / EVERY, rel=0.1)
