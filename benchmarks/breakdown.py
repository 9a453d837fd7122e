"""Where the worker's CPU goes, part by part, beside the client's floor.

python -m benchmarks.breakdown [--ticks N] [--streams N] [--cells gru,lstm]

The worker runs in a process of its own with a stopwatch around the functions of PARTS. A stopwatch counts the CPU time of the
worker's thread, less that of the stopwatches inside it; what the process uses beside is that of the other threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import onnxruntime

from benchmarks.speed import PARTITIONS, fill, floor, loads
from benchmarks.tables import Row, Size, Told, markdown
from service import autoencoder, blocks, scorer, ticks, worker
from service.connection import KafkaSettings
from service.consume import POLL_MS
from service.history import History
from service.judge import Judge
from service.logs import confluent, kafka_python
from service.logs import kafka as kafka_log
from service.logs.changelog import Changelog
from service.logs.client import CLIENTS
from service.scorer import Scorer, warm_up
from service.station import Scoring, Station
from service.streams import Streams
from service.topics import create_topics
from tests.kafka.broker import free_ports, own_broker
from tests.kafka.toy import names

# part: the functions that do it, as owner and name; a part has what its functions use, less what other parts' use inside them
PARTS: dict[str, list[tuple[Any, str]]] = {
    "client: poll": [(kafka_python.Consumer, "poll"), (confluent.Consumer, "poll")],
    "records to columns": [(kafka_python, "_records"), (confluent, "_records")],
    "decode JSON": [(ticks, "decode")],
    "streams to rows": [(Streams, "rows")],
    "features": [(scorer, "features")],
    "planning of blocks": [(blocks, "plan")],
    "onnxruntime": [(onnxruntime.InferenceSession, "run")],
    "gather and scatter of blocks": [(autoencoder.Model, "reconstruct")],
    "judge": [(Judge, "judge")],
    "rest of the scorer": [(Scorer, "score")],
    "alerts": [(worker, "alerts"), (worker, "cloud_event")],
    "history of the live page": [(History, "add")],
    "state and changelog": [(Streams, "changed"), (Changelog, "write")],
    "client: commit": [(kafka_log.KafkaLog, "commit")],
    "rest of the worker": [(Station, "step")],
}
THREADS = "client: its threads"


class Stopwatch:
    """CPU seconds of this thread by part, each without the parts inside it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []  # of each part that is running: what the parts inside it took

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            began = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                took = time.thread_time() - began
                self.spent[part] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        return timed


def watched(settings: KafkaSettings, client: str, cell: str, n: int) -> None:
    """Score `n` ticks and print the CPU microseconds per tick of each part, without those of the first tenth."""
    watch = Stopwatch()
    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, watch.around(part, getattr(owner, name)))
    (port,) = free_ports(1)
    scoring = Scoring(cell, 20.0, 100, False, 168.0, 10**6, "127.0.0.1", port)
    scorer = scoring.scorer()
    warm_up(scorer.model)
    streams = scorer.streams
    log = kafka_log.KafkaLog(settings, streams.row_bytes, scorer.layout, streams.packed, client=client)
    station = Station(scoring, scorer, log, ticks.decode)
    begun: dict[str, float] = {}
    first = 0
    while station.worker.ticks < n:
        station.step(POLL_MS)
        if not first and station.worker.ticks > n / 10:
            first, begun = station.worker.ticks, watch.spent.copy()
            cpu, thread = time.process_time(), time.thread_time()
    watch.spent[THREADS] = time.process_time() - cpu - (time.thread_time() - thread)
    per_tick = {part: (watch.spent[part] - begun[part]) / (n - first) * 1e6 for part in (*PARTS, THREADS)}
    log.close()
    station.close()
    print(json.dumps(per_tick))


def watch(settings: KafkaSettings, client: str, cell: str, n: int) -> dict[str, float]:
    """`watched` in a process of its own."""
    given = msgspec.json.encode(settings).decode()
    command = [sys.executable, "-m", __spec__.name, "--watch", given, "--ticks", str(n), "--cells", cell]
    command += ["--client", client]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, check=True, capture_output=True, env=environment).stdout  # noqa: S603  (this very file)
    spent: dict[str, float] = json.loads(told)
    return spent


def breakdown(bootstrap: str, size: Size, told: Told) -> list[Row]:
    """A row for each part, with a column for each load and client, with the first cell."""
    columns: dict[str, dict[str, float]] = {}
    for i, (load, which) in enumerate(loads(size.ticks, size.streams).items()):
        source = names(bootstrap, f"parts-{i}", "one")
        fill(source, which)
        for client in CLIENTS:
            told(f"{load}, {client}", len(columns), 3 * len(CLIENTS))
            start, end = floor(source, client, size.ticks)
            settings = replace(names(bootstrap, f"parts-{i}-{client}", "one"), ticks=source.ticks)
            create_topics(settings, PARTITIONS, 1)
            spent = watch(settings, client, size.cells[0], size.ticks)
            columns[f"{load}, {client}"] = spent | {"**all**": sum(spent.values()), "floor": end.since(start)[0]}
    return [
        {"us per tick": part} | {column: spent[part] for column, spent in columns.items()}
        for part in (*PARTS, THREADS, "**all**", "floor")
    ]


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ticks", type=int, default=300_000)
    options.add_argument("--streams", type=int, default=2000)
    options.add_argument("--cells", default="gru,lstm")
    options.add_argument("--watch", help=argparse.SUPPRESS)
    options.add_argument("--client", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.watch:
        watched(msgspec.json.decode(given.watch, type=KafkaSettings), given.client, given.cells, given.ticks)
        return
    with own_broker() as bootstrap:
        size = Size(given.ticks, given.streams, 0, 0, given.cells.split(","), ())
        print(markdown(breakdown(bootstrap, size, lambda what, done, of: None)))


if __name__ == "__main__":
    main()
