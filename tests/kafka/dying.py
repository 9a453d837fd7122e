"""The real worker as a program that kills itself before or after the n-th time it takes a step.

`dying.py LOG CELL STEP WHEN NTH [GUARANTEE]`: LOG is the path of an embedded log, or BOOTSTRAP/PREFIX/CLIENT; STEP is `poll`,
`score` or `commit`, a method of the client's producers, or the beginning of an SQL statement, which can only be died before.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.autoencoder import load
from service.consume import AT_LEAST_ONCE, EXACTLY_ONCE
from service.logs import Log
from service.logs.client import find
from service.logs.kafka import KafkaLog
from service.logs.sqlite import SqliteLog
from service.metrics import Metrics
from service.scorer import Scorer
from service.worker import Send, Worker
from tests.kafka.toy import names
from tests.samples import shipped

IDLE_HOURS = 0.001
MAX_STREAMS = 5
BATCH = 100


def die() -> None:
    """Leave without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner: Any, method: str, when: str, nth: int) -> None:
    """Make this process kill itself before or after the n-th call of a method."""
    real: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            die()
        result = real(*args, **kwargs)
        if calls == nth and when == "after":
            die()
        return result

    setattr(owner, method, deadly)


def worker_on(where: str, cell: str, guarantee: str = EXACTLY_ONCE, commit_interval_ms: int = 0) -> tuple[Worker, Log]:
    """A worker that expires and refuses streams, on the log named `where`."""
    scorer = Scorer(load(shipped(cell)), 20, IDLE_HOURS, MAX_STREAMS)
    log: Log
    send: Send | None = None
    if where.endswith(".sqlite"):
        log = SqliteLog(Path(where), scorer.layout, BATCH)
    else:
        bootstrap, prefix, client = where.split("/")
        settings, rows, at_once = names(bootstrap, prefix, "one"), scorer.streams, guarantee == AT_LEAST_ONCE
        log = KafkaLog(
            settings, rows.row_bytes, scorer.layout, rows.packed, client=client, max_records=BATCH, at_once=at_once
        )
        send = log.send if at_once else None
    return Worker(log, scorer, Metrics(), commit_interval_ms=commit_interval_ms, publish_scores=True, send=send), log


def main(where: str, cell: str, step: str, when: str, nth: str, guarantee: str = EXACTLY_ONCE) -> None:
    """Work until death."""
    worker, log = worker_on(where, cell, guarantee)
    if step == "score":
        die_at(Scorer, step, when, int(nth))
    elif step in ("poll", "commit"):
        die_at(type(log), step, when, int(nth))
    elif isinstance(log, SqliteLog):
        left = int(nth)

        def trace(statement: str) -> None:
            nonlocal left
            left -= statement.startswith(step)
            if left == 0:
                die()

        log._db.set_trace_callback(trace)
    else:
        die_at(find(where.split("/")[2]).producer, step, when, int(nth))
    while True:
        worker.step(50)


if __name__ == "__main__":
    main(*sys.argv[1:])
