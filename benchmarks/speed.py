"""What a tick costs the worker, beside what the same client costs that reads the same topic and throws it away.

python benchmarks/speed.py [--ticks N] [--streams N] [--cells gru,lstm] [--clients kafka-python,confluent-kafka]
    [--guarantee exactly-once]

It starts a broker (tests/kafka/broker.py) and fills a topic for each load: streams that are equally busy, streams of a Zipf law
with exponent 1.1, and one stream. Each topic is read with each client by a bare consumer, the floor, and by `tickwatch worker`
with each cell, one after the other. Start-up is left out: counting begins when a tenth of the ticks is through.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from urllib.error import URLError

import numpy as np
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from service.connection import KafkaSettings, connect
from service.consume import EXACTLY_ONCE, GUARANTEES
from service.logs import confluent, kafka_python
from service.logs.client import CLIENTS
from service.ticks import encode
from service.topics import create_topics
from tests.kafka.broker import free_ports, own_broker
from tests.kafka.toy import names
from tests.samples import random_ticks

PARTITIONS = 4
BATCH = 5000  # records a poll, as KafkaLog takes them
LOOK_S = 0.1
STUCK_S = 120
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a process has used so far: ticks, CPU seconds, seconds, and at most so many bytes of memory."""

    ticks: float
    cpu: float
    at: float
    peak: int

    def since(self, start: Cost) -> tuple[float, float]:
        """(CPU microseconds a tick, ticks a second)."""
        ticks = self.ticks - start.ticks
        return (self.cpu - start.cpu) / ticks * 1e6, ticks / (self.at - start.at)


def loads(n: int, streams: int) -> dict[str, NDArray[np.int64]]:
    """The stream of each tick."""
    share = np.cumsum(np.arange(1, streams + 1) ** -1.1)
    rng = np.random.default_rng(1)
    return {
        f"even, {streams:,} streams": np.arange(n) % streams,
        f"Zipf, {streams:,} streams": np.searchsorted(share / share[-1], rng.random(n)),
        "one stream": np.zeros(n, np.int64),
    }


def fill(kafka: KafkaSettings, which: NDArray[np.int64]) -> None:
    """A topic of ticks of a random market."""
    create_topics(kafka, PARTITIONS, 1)
    config = {"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 50, "queue.buffering.max.messages": 10**7}
    producer = Producer(config)
    ticks = replace(random_ticks(len(which), 1), stream=[f"S{k}" for k in which.tolist()])
    for k, name, value in zip(which.tolist(), ticks.stream, encode(ticks), strict=True):
        producer.produce(kafka.ticks, value, name, partition=k % PARTITIONS)
    producer.flush()


def bare(kafka: KafkaSettings, client: str) -> Callable[[], int]:
    """Reads some records, throws them away and says how many they were."""
    if client == "kafka-python":
        plain = connect(kafka, KafkaConsumer, **kafka_python.CONSUMER)
        plain.assign([TopicPartition(kafka.ticks, p) for p in range(PARTITIONS)])
        return lambda: sum(map(len, plain.poll(100, BATCH).values()))
    fast = Consumer(confluent.CONSUMER | {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "discard"})
    fast.assign([Place(kafka.ticks, p, 0) for p in range(PARTITIONS)])
    return lambda: len(fast.consume(BATCH, 0.1))


def discard(kafka: KafkaSettings, client: str, n: int) -> None:
    """The floor: read the topic and print the cost at a tenth and at the end."""
    read = bare(kafka, client)
    seen, costs = 0, list[tuple[float, ...]]()
    while seen < n:
        seen += read()
        if seen >= n or (not costs and seen > n / 10):
            costs.append((seen, time.process_time(), time.perf_counter(), peak(os.getpid())))
    print(json.dumps(costs))


def peak(pid: int) -> int:
    """The most bytes of memory that a process has held."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def floor(kafka: KafkaSettings, client: str, n: int) -> tuple[Cost, Cost]:
    """`discard` in a process of its own."""
    command = [sys.executable, __file__, "--discard", kafka.ticks, kafka.bootstrap_servers, client, "--ticks", str(n)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, check=True, capture_output=True, env=environment).stdout  # noqa: S603  (this very file)
    start, end = (Cost(*cost) for cost in json.loads(told))
    return start, end


def work(kafka: KafkaSettings, client: str, guarantee: str, cell: str, n: int) -> tuple[Cost, Cost]:
    """`tickwatch worker` on the topic, as its own metrics tell."""
    (port,) = free_ports(1)
    command = [
        sys.executable,
        "-c",
        "from service.cli import main; main()",
        "worker",
        "--model",
        cell,
        "--client",
        client,
        "--processing-guarantee",
        guarantee,
    ]
    command += ["--port", str(port), "--bootstrap-servers", kafka.bootstrap_servers, "--group", kafka.group]
    command += ["--ticks-topic", kafka.ticks, "--alerts-topic", kafka.alerts, "--scores-topic", kafka.scores]
    command += ["--dead-letters-topic", kafka.dead_letters, "--changelog-topic", kafka.changelog]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  (our own worker)
    try:
        start, end = None, look(process.pid, port)
        until = time.monotonic() + STUCK_S
        while end.ticks < n:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the worker stands at {end.ticks:,.0f} of {n:,} ticks: {' '.join(command)}")
            time.sleep(LOOK_S)
            end = look(process.pid, port)
            if start is None and end.ticks > n / 10:
                start = end
        return start or end, end
    finally:
        process.terminate()
        process.wait(30)


def look(pid: int, port: int) -> Cost:
    """The worker's cost so far."""
    values: dict[str, str] = {}
    with suppress(URLError, ConnectionError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    ticks = sum(float(v) for k, v in values.items() if k.startswith("tickwatch_ticks_total"))
    return Cost(ticks, float(values.get("process_cpu_seconds_total", 0)), time.perf_counter(), peak(pid))


def main() -> None:
    """Measure every load, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ticks", type=int, default=200_000)
    options.add_argument("--streams", type=int, default=2000)
    options.add_argument("--cells", default="gru,lstm")
    options.add_argument("--clients", default=",".join(CLIENTS))
    options.add_argument("--guarantee", choices=GUARANTEES, default=EXACTLY_ONCE)
    options.add_argument("--discard", nargs=3, metavar=("TOPIC", "BROKER", "CLIENT"), help="only read and throw away")
    given = options.parse_args()
    if given.discard:
        topic, bootstrap, client = given.discard
        discard(KafkaSettings(bootstrap, ticks=topic), client, given.ticks)
        return
    print(
        "| load | client | cell | of the floor | us per tick, own | us, all | us, floor | ticks/s | floor, ticks/s",
        end="",
    )
    print(" | of even | peak MiB |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    even: dict[tuple[str, str], float] = {}
    with own_broker() as bootstrap:
        for i, (load, which) in enumerate(loads(given.ticks, given.streams).items()):
            source = names(bootstrap, f"speed-{i}", "one")
            fill(source, which)
            floors = {client: floor(source, client, given.ticks) for client in given.clients.split(",")}
            for client, cell in product(floors, given.cells.split(",")):
                start, end = floors[client]
                least, fastest = end.since(start)
                kafka = replace(names(bootstrap, f"speed-{i}-{client}-{cell}", "one"), ticks=source.ticks)
                create_topics(kafka, PARTITIONS, 1)
                start, end = work(kafka, client, given.guarantee, cell, given.ticks)
                cost, speed = end.since(start)
                even.setdefault((client, cell), speed)
                print(
                    f"| {load} | {client} | {cell} | {cost / least:.2f} | {cost - least:.1f} | {cost:.1f} | {least:.1f}"
                    f" | {speed:,.0f} | {fastest:,.0f} | {speed / even[client, cell]:.2f} | {end.peak / MIB:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
