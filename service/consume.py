"""`tickwatch worker`: ticks from Kafka, alerts and state back into it, until SIGTERM."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from service.alerts import Alert
from service.autoencoder import find, load
from service.connection import KafkaSettings
from service.logs.kafka import KafkaLog
from service.metrics import Metrics
from service.scorer import Scorer, warm_up
from service.stop import Stop
from service.web import Board, Pages, Status
from service.worker import Worker

LOG = logging.getLogger("tickwatch")
POLL_MS = 100


@dataclass(frozen=True)
class Options:
    """What `tickwatch worker` was asked for, beside how to reach Kafka."""

    model: str
    alert_budget: float
    commit_interval_ms: int
    scores: bool
    stream_idle_hours: float
    max_streams: int
    fresh: bool
    host: str
    port: int | None


def consume(options: Options, kafka: KafkaSettings) -> None:
    """Score the topic's ticks until SIGINT or SIGTERM, then commit and leave."""
    scorer = Scorer(load(find(options.model)), options.alert_budget, options.stream_idle_hours, options.max_streams)
    warm_up(scorer.model)
    streams = scorer.streams
    metrics = Metrics()
    status = Status(scorer.model.id, scorer.threshold)
    board = Board(status)
    pages = Pages(board, metrics.registry, options.host, options.port)
    log = KafkaLog(kafka, streams.row_bytes, scorer.layout, streams.packed, fresh=options.fresh)

    def committed(alerts: list[Alert]) -> None:
        board.alerts.extend(alerts)

    worker = Worker(
        log,
        scorer,
        metrics,
        commit_interval_ms=options.commit_interval_ms,
        publish_scores=options.scores,
        on_commit=committed,
    )
    LOG.info(
        "model %s reads topic %s at %s; pages at %s/", scorer.model.id, kafka.ticks, kafka.bootstrap_servers, pages.url
    )
    began = time.monotonic()
    try:
        with Stop() as stop:
            while not stop.asked:
                worker.step(POLL_MS)
                board.ready = log.connected and not log.restoring
                board.status = Status(
                    status.model, status.threshold, worker.ticks, len(streams), worker.alerts, worker.rejected,
                    sum(log.lag().values()), time.monotonic() - began,
                )  # fmt: skip
            worker.finish()
    finally:
        log.close()
        pages.close()
    LOG.info("stopped after %d ticks, %d alerts, %d dead letters", worker.ticks, worker.alerts, worker.rejected)
