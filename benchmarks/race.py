"""Runs a contestant and tells from outside what it costs: committed offsets from Kafka, CPU and memory from /proc.

A contestant is one process without children, so its own CPU time is that of its tree.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.contestants import ROOT, Contestant, Task
from benchmarks.speed import LOOK_S, PARTITIONS, STUCK_S, Cost, peak
from service.connection import KafkaSettings

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(contestant: Contestant, task: Task, leave_s: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """The contestant's process for the block, with `leave_s` to end by itself; its words go to a file beside its folder."""
    task.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Path(f"{task.folder}.log").open("ab") as words:
        process = subprocess.Popen(  # noqa: S603  (a contestant)
            contestant.command(task), stdout=words, stderr=words, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        if leave_s:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(leave_s)
        process.kill()
        process.wait()


@contextmanager
def committed(kafka: KafkaSettings) -> Iterator[Callable[[], int]]:
    """Asks how many ticks the group has committed; 0 while its coordinator can't say."""
    consumer = Consumer({
        "bootstrap.servers": kafka.bootstrap_servers, "group.id": kafka.group, "log_level": 2,
        "isolation.level": "read_uncommitted",  # with the other one an answer waits for the transaction that is open
    })  # fmt: skip
    partitions = [TopicPartition(kafka.ticks, p) for p in range(PARTITIONS)]

    def ask() -> int:
        with suppress(KafkaException):
            return sum(max(0, at.offset) for at in consumer.committed(partitions, timeout=10))
        return 0

    try:
        yield ask
    finally:
        consumer.close()


def look(process: subprocess.Popen[bytes], ticks: int) -> Cost:
    """What the process has used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
    return Cost(ticks, cpu, time.perf_counter(), peak(process.pid))


def until(process: subprocess.Popen[bytes], done: Callable[[], int], n: int, task: Task) -> Cost:
    """Wait until `n` ticks are committed. Raises RuntimeError when the process ends or stands still."""
    last, since = -1, time.monotonic()
    while True:
        now = done()
        if process.poll() is not None or time.monotonic() - since > STUCK_S:
            words = Path(f"{task.folder}.log").read_text(errors="replace").splitlines()[-20:]
            raise RuntimeError("\n".join([f"stands at {now:,} of {n:,} ticks:", *words]))
        if now >= n:
            return look(process, now)
        if now > last:
            last, since = now, time.monotonic()
        time.sleep(LOOK_S / 2)


def race(contestant: Contestant, task: Task, first: int, n: int) -> tuple[Cost, Cost]:
    """(cost when `first` ticks are committed, cost when `n` are)."""
    with committed(task.kafka) as done, running(contestant, task) as process:
        start = until(process, done, first, task)
        return start, until(process, done, n, task)
