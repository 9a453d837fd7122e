"""What a tick costs tickwatch and its peers behind a backlog, for even, Zipf and single-stream loads."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.contestants import OURS, THEIRS, Contestant, Task
from benchmarks.race import race
from benchmarks.speed import MIB, PARTITIONS, Cost, fill, floor, loads
from benchmarks.tables import Row, Size, Told
from service.connection import KafkaSettings
from service.logs.client import CLIENTS
from service.topics import create_topics
from tests.kafka.toy import names


def throughput(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each load, cell and contestant; the first of them is what the others are compared with."""
    everyone = [*OURS, *THEIRS]
    rows: list[Row] = []
    of = 3 * len(size.cells) * len(everyone)
    most = int(size.ticks * max(contestant.pace for contestant in everyone))
    for i, (load, which) in enumerate(loads(most, size.streams).items()):
        source = names(bootstrap, f"throughput-{i}", "one")
        told(f"{load}: filling the topic, and the floor", len(rows), of)
        fill(source, which)
        floors = {client: _per_tick(*floor(source, client, most)) for client in CLIENTS}
        for cell in size.cells:
            ours: tuple[float, float] | None = None
            for contestant in everyone:
                told(f"{load}, {cell}: {contestant.name}, {contestant.guarantee}", len(rows), of)
                start, end = _run(contestant, source, cell, size.ticks)
                ours = ours or end.since(start)
                where: Row = {"load": load, "cell": cell}
                rows.append(where | _row(contestant, start, end, ours, floors.get(contestant.client)))
    return rows


def _per_tick(start: Cost, end: Cost) -> float:
    return end.since(start)[0]


def _run(contestant: Contestant, source: KafkaSettings, cell: str, n: int) -> tuple[Cost, Cost]:
    """Costs after half of the ticks and after all: a JVM compiles for seconds, which is not what a tick costs."""
    kafka = replace(names(source.bootstrap_servers, f"run-{time.time_ns()}", "one"), ticks=source.ticks)
    create_topics(kafka, PARTITIONS, 1)
    ticks = int(n * contestant.pace)
    with TemporaryDirectory() as folder:
        return race(contestant, Task(kafka, cell, Path(folder) / "state"), ticks // 2, ticks)


def _row(contestant: Contestant, start: Cost, end: Cost, ours: tuple[float, float], least: float | None) -> Row:
    cost, speed = end.since(start)
    return {
        "system": contestant.name,
        "client": contestant.client,
        "guarantee": contestant.guarantee,
        "CPU of ours": cost / ours[0],
        "ticks/s of ours": speed / ours[1],
        "of the floor": None if least is None else cost / least,
        "us per tick, own": None if least is None else cost - least,
        "us, all": cost,
        "ticks/s": round(speed),
        "peak MiB": round(end.peak / MIB),
    }
