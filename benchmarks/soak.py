"""Whether a worker's memory stays flat: full speed, a backlog that never ends, its resident memory sampled every second.

python benchmarks/soak.py [--seconds N] [--model gru|lstm] [--streams N]

It starts a broker (tests/kafka/broker.py), fills it with ticks, runs `tickwatch worker --scores` on them and appends more before
they run out. The first tenth of the time is not judged: caches fill. The last quarter's median may lie 5 % above the first's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from confluent_kafka import Producer

from service.connection import KafkaSettings
from service.ticks import encode
from service.topics import create_topics
from tests.kafka.broker import free_ports, own_broker
from tests.kafka.toy import names
from tests.samples import random_ticks

MIB = 2**20
PARTITIONS = 8
CHUNK = 200_000
LEAST_LAG = 1_000_000
MOST_GROWTH = 0.05


@dataclass
class Tape:
    """Endless random-market ticks, appended chunk by chunk. kafka-python would need more CPU for it than the worker."""

    kafka: KafkaSettings
    streams: int
    sent: int = 0
    last_ts: int = 0

    def __post_init__(self) -> None:
        config = {
            "bootstrap.servers": self.kafka.bootstrap_servers,
            "linger.ms": 50,
            "queue.buffering.max.messages": 10**6,
        }
        self._producer = Producer(config)

    def append(self) -> None:
        """One more chunk; each stream goes on where it was in time."""
        ticks = random_ticks(CHUNK, self.streams, seed=self.sent)
        if self.sent:
            ticks.ts[:] += self.last_ts - ticks.ts[0]
        self.last_ts = int(ticks.ts[-1])
        for name, value in zip(ticks.stream, encode(ticks), strict=True):
            self._producer.produce(self.kafka.ticks, value, name, partition=int(name[1:]) % PARTITIONS)
        self._producer.flush()
        self.sent += CHUNK


@dataclass
class Samples:
    """What was seen, once a second."""

    resident: list[int] = field(default_factory=list)  # bytes
    lag: list[float] = field(default_factory=list)
    ticks: float = 0.0

    def take(self, process: subprocess.Popen[bytes], url: str) -> None:
        """Look once."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        self.resident.append(int(status.split("VmRSS:")[1].split()[0]) * 1024)
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  (our own worker)
            lines = answer.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        self.lag.append(sum(float(v) for k, v in values.items() if k.startswith("tickwatch_lag_ticks")))
        self.ticks = sum(float(v) for k, v in values.items() if k.startswith("tickwatch_ticks_total"))


def soak(kafka: KafkaSettings, seconds: float, model: str, streams: int) -> Samples:
    """Run a worker at full speed for so long."""
    create_topics(kafka, PARTITIONS, 1)
    tape = Tape(kafka, streams)
    while tape.sent < LEAST_LAG:
        tape.append()
    (port,) = free_ports(1)
    command = [sys.executable, "-c", "from service.cli import main; main()", "worker", "--scores", "--model", model]
    command += ["--port", str(port), "--bootstrap-servers", kafka.bootstrap_servers, "--group", kafka.group]
    command += ["--ticks-topic", kafka.ticks, "--alerts-topic", kafka.alerts, "--scores-topic", kafka.scores]
    command += ["--dead-letters-topic", kafka.dead_letters, "--changelog-topic", kafka.changelog]
    process = subprocess.Popen(command)  # noqa: S603  (our own worker)
    samples, url = Samples(), f"http://127.0.0.1:{port}/metrics"
    try:
        while process.poll() is None and not samples.ticks:
            time.sleep(1)
            with suppress(URLError):  # it still loads its model
                samples.take(process, url)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            samples.take(process, url)
            if tape.sent - samples.ticks < LEAST_LAG:
                tape.append()
            time.sleep(1)
    finally:
        process.terminate()
        process.wait(30)
    return samples


def judge(samples: Samples, seconds: float) -> int:
    """Print the medians and the verdict; 0 if memory was flat."""
    judged = samples.resident[len(samples.resident) // 10 :]
    quarters = [statistics.median(judged[len(judged) * q // 4 : len(judged) * (q + 1) // 4]) for q in range(4)]
    first, last = quarters[0], quarters[-1]
    flat = last <= first * (1 + MOST_GROWTH)
    told = ", ".join(f"{median / MIB:.0f}" for median in quarters)
    print(f"resident memory, medians of the quarters: {told} MiB; most {max(judged) / MIB:.0f} MiB")
    print(
        f"verdict: memory {'flat' if flat else 'GROWS'} ({last / first - 1:+.1%}) over {seconds:.0f} s,"
        f" {samples.ticks:,.0f} ticks at {samples.ticks / seconds:,.0f} a second, lag up to {max(samples.lag):,.0f}"
    )
    return 0 if flat else 1


def main() -> int:
    """Soak as the arguments say."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=300)
    options.add_argument("--model", default="gru")
    options.add_argument("--streams", type=int, default=2000)
    given = options.parse_args()
    with own_broker() as bootstrap:
        kafka = names(bootstrap, "soak", "one")
        return judge(soak(kafka, given.seconds, given.model, given.streams), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
