"""How long a worker takes to get the state of many streams back from the changelog, and what they cost in memory.

python benchmarks/restore.py [--streams N] [--model gru|lstm] [--partitions P] [--bootstrap-servers HOST:PORT]

Without a broker's address it starts one (tests/kafka/broker.py). It writes the changelog through KafkaLog itself, in commits of
50,000 streams with random rows, and touches a tenth of them again; then another process restores them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from service.autoencoder import find, load
from service.connection import KafkaSettings
from service.logs import Checkpoint, PartitionState
from service.logs.kafka import KafkaLog
from service.scorer import Scorer
from service.topics import create_topics
from tests.kafka.broker import own_broker, produce
from tests.kafka.toy import names

COMMIT = 50_000
MIB = 2**20


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def stream_names(partition: int, n: int) -> list[str]:
    """Streams of a partition."""
    return [f"VENUE{partition}:{i:08d}" for i in range(n)]


def write(kafka: KafkaSettings, scorer: Scorer, partitions: int, each: int) -> None:
    """Fill the changelog with `each` streams per partition."""
    create_topics(kafka, partitions, 1)
    for partition in range(partitions):
        produce(kafka.bootstrap_servers, kafka.ticks, [(None, b"{}")] * 2, partition=partition)
    streams = scorer.streams
    log = KafkaLog(kafka, streams.row_bytes, scorer.layout, streams.packed)
    waiting = set(range(partitions))
    while waiting:
        waiting -= {state.partition for state in log.poll(100, lambda: None).restored}
    rng = np.random.default_rng(1)
    for partition in range(partitions):
        rows = rng.integers(0, 256, (each, streams.row_bytes), np.uint8)
        streams.load(PartitionState(partition, stream_names(partition, each), rows))
        parts = [slice(at, at + COMMIT) for at in range(0, each, COMMIT)] + [slice(0, each // 10)]
        for part in parts:
            log.commit(
                Checkpoint({partition: 1}, [PartitionState(partition, stream_names(partition, each)[part], rows[part])])
            )
            log.poll(0, lambda: None)
    log.close()


def restore(kafka: KafkaSettings, scorer: Scorer, partitions: int) -> None:
    """Restore everything as a worker does, and print what it took."""
    streams = scorer.streams
    log = KafkaLog(kafka, streams.row_bytes, scorer.layout, streams.packed)
    before = resident()
    joined, cpu = None, 0.0
    waiting = set(range(partitions))
    while waiting:
        poll = log.poll(0, lambda: None)
        if joined is None and log._member is not None and log._member.waiting:
            joined, cpu = time.perf_counter(), time.process_time()
        for state in poll.restored:
            streams.load(state)
            waiting.discard(state.partition)
    seconds, cpu = time.perf_counter() - (joined or 0.0), time.process_time() - cpu
    del poll, state
    log.poll(0, lambda: None)  # gives the connections of the restore back
    held, n = resident() - before, len(streams)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    log.close()
    print(
        "| streams | partitions | bytes a row | restore, s | of it CPU, s | resident | bytes a stream | peak while restoring |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {n:,} | {partitions} | {streams.row_bytes} | {seconds:.1f} | {cpu:.1f} | {held / MIB:,.0f} MiB | {held / n:,.0f}"
        f" | {peak / MIB:,.0f} MiB |"
    )


def main() -> None:
    """Write, restore in another process, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, default=1_000_000)
    options.add_argument("--partitions", type=int, default=8)
    options.add_argument("--model", default="gru")
    options.add_argument("--bootstrap-servers")
    options.add_argument("--restore", metavar="PREFIX", help="only restore what an earlier run wrote")
    given = options.parse_args()
    scorer = Scorer(load(find(given.model)), 20)
    if given.restore:
        restore(names(given.bootstrap_servers, given.restore, "one"), scorer, given.partitions)
        return
    prefix = f"bench-{time.time_ns()}"
    with nullcontext(given.bootstrap_servers) if given.bootstrap_servers else own_broker() as bootstrap:
        write(names(bootstrap, prefix, "one"), scorer, given.partitions, given.streams // given.partitions)
        command = [sys.executable, __file__, "--restore", prefix, "--bootstrap-servers", bootstrap]
        command += ["--model", given.model, "--partitions", str(given.partitions)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(command, check=True, env=environment)  # noqa: S603  (this very file)


if __name__ == "__main__":
    main()
