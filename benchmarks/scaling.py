"""How the cost of a tick grows with the number of streams, and with the number of workers of a group."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.contestants import OURS, Task
from benchmarks.race import committed, look, race, running, until
from benchmarks.speed import MIB, PARTITIONS, Cost, fill, loads
from benchmarks.tables import Row, Size, Told
from service.connection import KafkaSettings
from service.topics import create_topics
from tests.kafka.toy import names

STREAMS = (1_000, 10_000, 100_000, 1_000_000)
WORKERS = (1, 2, 3, 4)


def streams(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each number of streams, which are equally busy; counting begins when each has had a tick or two.

    A client may read some partitions twice as far as others, so that after one round not all streams would be known.
    """
    rows: list[Row] = []
    numbers = [n for n in STREAMS if n <= size.many]
    for n in numbers:
        told(f"{n:,} streams", len(rows), len(numbers))
        kafka = names(bootstrap, f"streams-{n}", "one")
        first = max(2 * n, size.ticks // 2)
        fill(kafka, np.arange(first + size.ticks) % n)
        with TemporaryDirectory() as folder:
            start, end = race(OURS[0], Task(kafka, size.cells[0], Path(folder)), first, first + size.ticks)
        cost, speed = end.since(start)
        least = float(rows[0]["us per tick"] or 0) if rows else cost
        rows.append({
            "streams": n, "of the cost with the fewest": cost / least, "us per tick": cost, "ticks/s": round(speed),
            "peak MiB": round(end.peak / MIB),
        })  # fmt: skip
    return rows


def workers(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each number of workers that share a Zipf load; all run on the same cores."""
    source = names(bootstrap, "workers", "one")
    _, which, _ = loads(2 * size.ticks, size.streams).values()
    fill(source, which)
    rows: list[Row] = []
    for n in WORKERS:
        told(f"{n} workers", len(rows), len(WORKERS))
        kafka = replace(names(bootstrap, f"workers-{n}", "one"), ticks=source.ticks)
        create_topics(kafka, PARTITIONS, 1)
        with TemporaryDirectory() as folder:
            start, end = together(kafka, size.cells[0], Path(folder), n, 2 * size.ticks)
        cost, speed = end.since(start)
        rows.append({
            "workers": n, "us per tick, all workers": cost, "ticks/s": round(speed),
            "peak MiB, all workers": round(end.peak / MIB),
        })  # fmt: skip
    return rows


def together(kafka: KafkaSettings, cell: str, folder: Path, n: int, ticks: int) -> tuple[Cost, Cost]:
    """Costs of `n` workers of a group together, after a quarter of the ticks and after all."""
    with ExitStack() as stack:
        done = stack.enter_context(committed(kafka))
        tasks = [Task(replace(kafka, instance=str(k)), cell, folder / str(k)) for k in range(n)]
        processes = [stack.enter_context(running(OURS[0], task)) for task in tasks]

        def both(at: int) -> Cost:
            until(processes[0], done, at, tasks[0])
            costs = [look(process, done()) for process in processes]
            return Cost(costs[0].ticks, sum(c.cpu for c in costs), time.perf_counter(), sum(c.peak for c in costs))

        return both(ticks // 4), both(ticks)
