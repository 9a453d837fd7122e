"""What Prometheus sees, as docs/metrics.md lists it. No label takes values from the data, so series do not grow with streams."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from service.autoencoder import Model
from service.drift import Drift

SCORE_BUCKETS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]([0-9a-f])")
SAMPLED = 1


def exemplar(traceparent: str) -> dict[str, str] | None:
    """What leads from a measurement to its trace, by a header of https://www.w3.org/TR/trace-context/; None if it is not kept."""
    found = TRACEPARENT.fullmatch(traceparent)
    return {"trace_id": found[1]} if found and int(found[2], 16) & SAMPLED else None


class ScoreHistogram(Collector):
    """A histogram that is fed whole batches: one numpy call instead of one Python call a tick."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(SCORE_BUCKETS) + 1, np.int64)
        self._sum = 0.0

    def observe(self, scores: NDArray[np.float64]) -> None:
        """Count scores float64 [N]."""
        places = np.searchsorted(SCORE_BUCKETS, scores, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(scores.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The histogram in Prometheus' cumulative form."""
        edges = [*(str(b) for b in SCORE_BUCKETS), "+Inf"]
        buckets = list(zip(edges, np.cumsum(self._counts).tolist(), strict=True))
        text = "Scores of ticks: -log10 of the tail probability"
        yield HistogramMetricFamily("tickwatch_score", text, buckets=buckets, sum_value=self._sum)


class Metrics:
    """All metrics of one worker, in their own registry."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.ticks = Counter("tickwatch_ticks", "Ticks by outcome", ["outcome"], registry=r)
        self.alerts = Counter("tickwatch_alerts", "Alerts made durable, by incident phase", ["phase"], registry=r)
        self.scores = ScoreHistogram()
        r.register(self.scores)
        self.drift = Drift()
        r.register(self.drift)
        self.batch_ticks = Histogram(
            "tickwatch_batch_ticks", "Ticks in a batch", buckets=(1, 4, 16, 64, 256, 1024, 4096), registry=r
        )
        self.batch_seconds = Histogram(
            "tickwatch_batch_seconds", "Time to decode and score a batch", buckets=SECONDS, registry=r
        )
        self.commit_seconds = Histogram(
            "tickwatch_commit_seconds", "Time to commit a checkpoint", buckets=SECONDS, registry=r
        )
        self.resets = Counter("tickwatch_log_resets", "Times that uncommitted work was void", registry=r)
        self.restored = Counter(
            "tickwatch_partitions_restored", "Partitions whose state was restored, by any cause", registry=r
        )
        self.partitions = Gauge("tickwatch_partitions", "Partitions by condition", ["condition"], registry=r)
        self.lag = Gauge("tickwatch_lag_ticks", "Ticks in the log that were not polled yet", ["partition"], registry=r)
        self.connected = Gauge("tickwatch_log_connected", "1 while the log can be reached", registry=r)
        self.connect_attempts = Gauge(
            "tickwatch_log_connect_attempts", "Attempts to reach the log since the last success", registry=r
        )
        self.expired = Counter("tickwatch_streams_expired", "Idle streams whose state was removed", registry=r)
        self.streams = Gauge("tickwatch_streams", "Streams whose state is held", registry=r)
        self.state_bytes = Gauge("tickwatch_state_bytes", "Memory held by the streams' state", registry=r)
        self.restore_seconds = Gauge(
            "tickwatch_restore_seconds", "Time that the last restore of state took", registry=r
        )
        self.model = Gauge(
            "tickwatch_model_info",
            "The model in use",
            ["model", "cell", "hidden", "bottleneck", "feature_set"],
            registry=r,
        )
        self.alert_budget = Gauge(
            "tickwatch_alert_budget_ratio", "False alarms accepted, as a share of all ticks", registry=r
        )
        ProcessCollector(registry=r)
        for outcome in ("scored", "late", "repeated", "rejected", "over_limit"):
            self.ticks.labels(outcome)
        for phase in ("opened", "updated"):
            self.alerts.labels(phase)
        for condition in ("active", "restoring"):
            self.partitions.labels(condition)

    def describe(self, model: Model, alert_budget: float) -> None:
        """Name the model in use, and the false alarms accepted per 100,000 ticks."""
        self.alert_budget.set(alert_budget / 100_000)
        card = model.card
        self.drift.expect(card.populations)
        self.model.labels(model.id, card.cell, card.hidden, card.bottleneck, card.feature_set).set(1)
