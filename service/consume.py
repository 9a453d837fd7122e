"""`tickwatch worker`: ticks from Kafka, alerts and state back into it, until SIGTERM."""

from __future__ import annotations

import logging
from threading import Thread
from typing import TYPE_CHECKING

from service.connection import KafkaSettings
from service.errors import TickwatchError
from service.journal import event
from service.logs.kafka import KafkaLog
from service.scorer import warm_up
from service.station import Scoring, Station
from service.stop import Stop
from service.ticks import Decode

if TYPE_CHECKING:
    from service.tracing import Tracing

LOG = logging.getLogger("tickwatch")
POLL_MS = 100
GUARANTEES = EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"


def consume(
    scoring: Scoring,
    kafka: KafkaSettings,
    decode: Decode,
    stop: Stop,
    tracing: Tracing | None,
    *,
    client: str,
    guarantee: str,
    linger_ms: int | None,
    fresh: bool,
) -> None:
    """Score the topic's ticks until `stop` is asked for, then commit and leave. `guarantee` is one of GUARANTEES."""
    if guarantee not in GUARANTEES:
        known = " and ".join(GUARANTEES)
        raise TickwatchError(f"guarantee {guarantee!r} is unknown; known are {known} (--processing-guarantee)")
    at_once = guarantee == AT_LEAST_ONCE
    scorer = scoring.scorer()
    warming = Thread(target=warm_up, args=(scorer.model,), name="warm-up")
    warming.start()  # a third of a second of loading kernels goes by while Kafka is joined and state restored
    streams = scorer.streams
    log = KafkaLog(
        kafka, streams.row_bytes, scorer.layout, streams.packed, client=client, linger_ms=linger_ms, fresh=fresh,
        traced=tracing is not None, at_once=at_once,
    )  # fmt: skip
    checkpoints = None if tracing is None else tracing.checkpoints(kafka.ticks, kafka.group)
    station = Station(scoring, scorer, log, decode, checkpoints=checkpoints, send=log.send if at_once else None)
    worker = station.worker
    where = f"topic {kafka.ticks} at {kafka.bootstrap_servers}; pages at {station.pages.url}/"
    started = event("started", model=scorer.model.id, topic=kafka.ticks, group=kafka.group, instance=kafka.instance)
    LOG.info("model %s reads %s", scorer.model.id, where, extra=started)
    try:
        while not stop.asked:
            station.step(POLL_MS)
        worker.finish()
    finally:
        log.close()
        station.close()
        if tracing is not None:
            tracing.close()
    counts = {"ticks": worker.ticks, "alerts": worker.alerts, "dead_letters": worker.rejected}
    LOG.info("stopped after %d ticks, %d alerts, %d dead letters", *counts.values(), extra=event("stopped", **counts))
