"""How far features and scores have moved from those of training: the population stability index.

With p the shares of training and q those of now, PSI = sum of (q - p) ln(q / p) (Siddiqi 2006, "Credit Risk Scorecards"; its
distribution: Yurdakul & Naranjo 2020, J. Risk Model Validation 14(4)). By the old rule of thumb below 0.1 little has
changed, and above 0.25 much has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.card import Population
from service.features import FEATURES
from service.scorer import Scored

NAMES = (*FEATURES, "score")
SHARES = 10
HALF_LIFE_SECONDS = 3600.0  # after which a tick counts half
ENOUGH = 5_000  # ticks; of fewer the index is mostly noise
LEAST_SHARE = 1e-3  # an empty bin must not make it infinite
SAMPLE = 512  # ticks of one batch at most
EVERY = 32  # one tick in so many is counted, so that counting costs next to nothing


class Drift(Collector):
    """Counts a sample of the scored ticks into the bins of training; the metric `tickwatch_drift_psi`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._edges = np.full((len(NAMES), SHARES - 1), np.inf)
        self._shares = np.zeros((len(NAMES), SHARES))
        self._counts = np.zeros((len(NAMES), SHARES))
        self._counted_at = clock()
        self._pass = 0  # ticks until some are counted again

    def expect(self, populations: Sequence[Population]) -> None:
        """Take a model's populations, in the order of NAMES; without them nothing is counted."""
        for j, population in enumerate(populations):
            self._edges[j, : len(population.edges)] = population.edges
            self._shares[j, : len(population.shares)] = population.shares

    def observe(self, scored: Scored) -> None:
        """Count one tick in EVERY; late and repeated ones have no features and are passed over."""
        n = len(scored.ticks)
        self._pass -= n
        if self._pass > 0 or not self._shares.any():
            return
        step = 1 + n // SAMPLE
        observed, score = scored.features.observed[::step], scored.verdicts.score[::step]
        self._pass = EVERY * len(score)
        values = np.column_stack([observed, np.where(scored.features.folded[::step], score, np.nan)])
        bins = (values[:, :, None] > self._edges).sum(axis=2) + np.arange(len(NAMES)) * SHARES
        found = np.bincount(bins[~np.isnan(values)], minlength=self._counts.size).reshape(self._counts.shape)
        now = self._clock()
        self._counts = self._counts * 0.5 ** ((now - self._counted_at) / HALF_LIFE_SECONDS) + found
        self._counted_at = now

    def psi(self) -> dict[str, float]:
        """The index of each of NAMES; NaN where too few ticks were counted, or training has seen too little."""
        counts, shares = self._counts, self._shares
        total = counts.sum(axis=1, keepdims=True)
        now = np.maximum(counts / np.maximum(total, 1.0), LEAST_SHARE)
        then = np.maximum(shares, LEAST_SHARE)
        index = ((now - then) * np.log(now / then)).sum(axis=1)
        told = (total[:, 0] >= ENOUGH) & ((shares > 0).sum(axis=1) > 1)
        return dict(zip(NAMES, np.where(told, index, math.nan).tolist(), strict=True))

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One series for each of NAMES."""
        text = "Population stability index against training: below 0.1 stable, above 0.25 shifted"
        family = GaugeMetricFamily("tickwatch_drift_psi", text, labels=["feature"])
        for name, value in self.psi().items():
            family.add_metric([name], value)
        yield family
