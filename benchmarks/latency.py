"""How long it takes from a tick's time to its committed score, as a read_committed reader sees it, at fixed rates.

A thread sends ticks of a Zipf law evenly over time, each stamped when it is sent; every contestant publishes every score and
commits every 100 ms. The first half of a run warms up and is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from benchmarks.contestants import OURS, THEIRS, Contestant, Task
from benchmarks.race import committed, look, running, until
from benchmarks.speed import PARTITIONS, loads
from benchmarks.tables import Row, Size, Told
from service.connection import KafkaSettings
from service.ticks import encode
from service.topics import create_topics
from tests.kafka.toy import names
from tests.samples import random_ticks

WARM = 0.5  # share of a run that is left out
PAUSE_S = 0.002  # between two handfuls of ticks
WAIT_S = 3.0  # for the last scores
ENOUGH = 0.98  # of the scores must be there by then, or the contestant does not keep up


class Scores(msgspec.Struct):
    """What every contestant's record says: the time of its tick, or of many."""

    ts: int | list[int]


@dataclass(frozen=True)
class Feed:
    """Ticks in JSON, cut where the time belongs, with their streams."""

    head: list[bytes]
    tail: list[bytes]
    stream: list[bytes]
    partition: list[int]

    def send(self, producer: Producer, topic: str, i: int) -> None:
        """Send tick `i` with the present time."""
        value = self.head[i] + b"%d" % time.time_ns() + self.tail[i]
        producer.produce(topic, value, self.stream[i], self.partition[i])


def feed(n: int, streams: int) -> Feed:
    """`n` ticks of a Zipf law."""
    _, which, _ = loads(n, streams).values()
    ticks = replace(random_ticks(n, 1), stream=[f"S{k}" for k in which.tolist()])
    cut = [v.split(b"%d" % ts, 1) for v, ts in zip(encode(ticks), ticks.ts.tolist(), strict=True)]
    heads, tails = [head for head, _ in cut], [tail for _, tail in cut]
    return Feed(heads, tails, [s.encode() for s in ticks.stream], (which % PARTITIONS).tolist())


def latency(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each rate and contestant that keeps state, with the first cell."""
    rows: list[Row] = []
    durable = [c for c in (*OURS, *THEIRS) if c.durable]
    of = len(size.rates) * len(durable)
    for rate in size.rates:
        ticks = feed(int(rate * size.seconds), size.streams)
        for contestant in durable:
            told(f"{rate:,} ticks/s: {contestant.name}, {contestant.guarantee}", len(rows), of)
            kafka = names(bootstrap, f"latency-{time.time_ns()}", "one")
            create_topics(kafka, PARTITIONS, 1)
            with TemporaryDirectory() as folder:
                task = Task(kafka, size.cells[0], Path(folder) / "state", every=True)
                rows.append(_row(contestant, rate, *measure(contestant, task, ticks, rate)))
    return rows


def _row(contestant: Contestant, rate: int, ms: NDArray[np.float64], expected: int, cpu: float) -> Row:
    kept_up = len(ms) >= ENOUGH * expected
    p50, p99 = np.percentile(ms, (50, 99)).tolist() if kept_up else (None, None)
    return {
        "ticks/s": rate,
        "system": contestant.name,
        "client": contestant.client,
        "guarantee": contestant.guarantee,
        "keeps up": "yes" if kept_up else "no",
        "p50 ms": p50,
        "p99 ms": p99,
        "CPU, us per tick": cpu if kept_up else None,
    }


def measure(contestant: Contestant, task: Task, ticks: Feed, rate: int) -> tuple[NDArray[np.float64], int, float]:
    """(milliseconds of the scores seen, how many there should be, CPU microseconds per tick)."""
    n = len(ticks.head)
    producer = Producer({"bootstrap.servers": task.kafka.bootstrap_servers, "linger.ms": 1, "log_level": 2})
    with committed(task.kafka) as done, running(contestant, task) as process:
        for i in range(PARTITIONS):
            producer.produce(task.kafka.ticks, ticks.head[i] + b"1" + ticks.tail[i], ticks.stream[i], i)
        producer.flush()
        until(process, done, PARTITIONS, task)
        sender = Thread(target=_send, args=(ticks, producer, task.kafka.ticks, rate), daemon=True)
        sender.start()
        begun, began = time.monotonic(), time.time_ns()
        sent, seen, start = [], [], None
        for stamps, now in _read(task.kafka):
            sent.append(stamps)
            seen.append(np.full(len(stamps), now))
            passed = time.monotonic() - begun
            if start is None and passed > WARM * n / rate:
                start = look(process, 0)
            if sum(map(len, sent)) >= n or passed > n / rate + WAIT_S:
                break
        end = look(process, int((1 - WARM) * n))
        sender.join()
    stamp, at = np.concatenate(sent), np.concatenate(seen)
    counted = stamp > began + WARM * n / rate * 1e9
    cpu = end.since(start)[0] if start else 0.0
    return (at - stamp)[counted] / 1e6, int((1 - WARM) * n), cpu


def _send(ticks: Feed, producer: Producer, topic: str, rate: int) -> None:
    n, sent, began = len(ticks.head), 0, time.perf_counter()
    while sent < n:
        due = min(n, int((time.perf_counter() - began) * rate))
        for i in range(sent, due):
            ticks.send(producer, topic, i)
        sent = due
        producer.poll(0)
        time.sleep(PAUSE_S)
    producer.flush()


def _read(kafka: KafkaSettings) -> Iterator[tuple[NDArray[np.int64], int]]:
    """For ever: (times of ticks whose scores arrived, the time now); of nothing, when nothing comes for a while."""
    config = {
        "bootstrap.servers": kafka.bootstrap_servers, "group.id": "reader", "isolation.level": "read_committed",
        "enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 10, "log_level": 2,
    }  # fmt: skip
    decode = msgspec.json.Decoder(Scores).decode
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(kafka.scores, p, 0) for p in range(PARTITIONS)])
        while True:
            first = consumer.poll(0.01)  # `consume` would wait for the last record that it may bring
            now = time.time_ns()
            stamps: list[int] = []
            for record in [] if first is None else [first, *consumer.consume(1000, 0)]:
                ts = decode(record.value() or b"").ts
                stamps += ts if isinstance(ts, list) else [ts]
            yield np.array(stamps, np.int64), now
    finally:
        consumer.close()
