"""`tickwatch worker`: ticks from Kafka, alerts and state back into it, until SIGTERM."""

from __future__ import annotations

import gc
import logging
from threading import Thread

from service.autoencoder import Model
from service.connection import KafkaSettings
from service.logs.kafka import KafkaLog
from service.scorer import warm_up
from service.station import Scoring, Station
from service.stop import Stop
from service.ticks import Decode

LOG = logging.getLogger("tickwatch")
POLL_MS = 100


def consume(scoring: Scoring, kafka: KafkaSettings, decode: Decode, stop: Stop, *, linger_ms: int, fresh: bool) -> None:
    """Score the topic's ticks until `stop` is asked for, then commit and leave."""
    scorer = scoring.scorer()
    warming = Thread(target=_warm_up, args=(scorer.model,), name="warm-up")
    warming.start()  # a third of a second of loading kernels goes by while Kafka is joined and state restored
    streams = scorer.streams
    log = KafkaLog(kafka, streams.row_bytes, scorer.layout, streams.packed, linger_ms=linger_ms, fresh=fresh)
    station = Station(scoring, scorer, log, decode)
    worker = station.worker
    where = f"topic {kafka.ticks} at {kafka.bootstrap_servers}; pages at {station.pages.url}/"
    LOG.info("model %s reads %s", scorer.model.id, where)
    try:
        while not stop.asked:
            station.step(POLL_MS)
        worker.finish()
    finally:
        log.close()
        station.close()
    LOG.info("stopped after %d ticks, %d alerts, %d dead letters", worker.ticks, worker.alerts, worker.rejected)


def _warm_up(model: Model) -> None:
    warm_up(model)
    gc.freeze()  # records are tracked objects, so full collections come often: none need walk all that was imported, 2 us a tick
