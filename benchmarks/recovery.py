"""How long a contestant takes to its first committed tick: when it is new, and when all that it knows is in its changelog."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.contestants import OURS, THEIRS, Contestant, Task
from benchmarks.race import committed, running, until
from benchmarks.speed import PARTITIONS, fill
from benchmarks.tables import Row, Size, Told
from tests.kafka.broker import produce
from tests.kafka.toy import names

STREAMS = 20_000
LEAVE_S = 20.0
LAST = [(b"S0", b'{"stream":"S0","ts":1800000000000000000,"price":1,"size":1,"bid":1,"ask":2}')]


def recovery(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each contestant that keeps state, with the first cell."""
    rows: list[Row] = []
    durable = [c for c in (*OURS, *THEIRS) if c.durable]
    for contestant in durable:
        told(f"{contestant.name}, {contestant.guarantee}", len(rows), len(durable))
        kafka = names(bootstrap, f"recovery-{time.time_ns()}", "one")
        fill(kafka, np.arange(STREAMS))
        with TemporaryDirectory() as folder:
            new, again = starts(contestant, Task(kafka, size.cells[0], Path(folder) / "state"))
        rows.append({
            "system": contestant.name, "client": contestant.client, "guarantee": contestant.guarantee,
            "streams": STREAMS, "first start, s": new, "restart and restore, s": again,
        })  # fmt: skip
    return rows


def starts(contestant: Contestant, task: Task) -> tuple[float, float]:
    """Seconds from the start of the process to the first committed tick: without state, and with that of all streams."""
    with committed(task.kafka) as done:
        began = time.perf_counter()
        with running(contestant, task, LEAVE_S) as process:
            new = until(process, done, 1, task).at - began
            until(process, done, STREAMS, task)
        shutil.rmtree(task.folder)
        for partition in range(PARTITIONS):
            produce(task.kafka.bootstrap_servers, task.kafka.ticks, LAST, partition)
        began = time.perf_counter()
        with running(contestant, task) as process:
            return new, until(process, done, STREAMS + PARTITIONS, task).at - began
