"""Who is compared: tickwatch and its peers, each as the command of one process, and where the peers come from.

The peers install from public registries into .cache/peers: Kafka Streams and onnxruntime for Java through Maven, Quix Streams
through pip. What they do less than tickwatch stands in benchmarks/peers/.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from service.autoencoder import find
from service.connection import KafkaSettings
from service.logs.client import CLIENTS
from tests.kafka.broker import free_ports

ROOT = Path(__file__).parents[1]
BUILT = ROOT / ".cache" / "peers"
PEERS = Path(__file__).parent / "peers"
ONCE, AT_LEAST_ONCE = "exactly once", "at least once"


@dataclass(frozen=True)
class Task:
    """What to score: topics and group, with which cell, keeping files in `folder`, telling `every` score or only alerts."""

    kafka: KafkaSettings
    cell: str
    folder: Path
    every: bool = False


@dataclass(frozen=True)
class Contestant:
    """A system, the client it reads with, its guarantee, whether state is durable, and how it is started.

    `pace` is how many times the ticks of a run it is given: what a slow one takes minutes for a fast one has done in a second.
    """

    name: str
    client: str
    guarantee: str
    durable: bool
    command: Callable[[Task], list[str]]
    pace: float = 1.0


def tickwatch(client: str, guarantee: str, task: Task) -> list[str]:
    """Our worker."""
    (port,) = free_ports(1)
    k = task.kafka
    command = [sys.executable, "-c", "from service.cli import main; main()", "worker", "--model", task.cell]
    command += ["--port", str(port), "--bootstrap-servers", k.bootstrap_servers, "--group", k.group]
    command += ["--instance", k.instance, "--ticks-topic", k.ticks, "--alerts-topic", k.alerts]
    command += ["--scores-topic", k.scores, "--dead-letters-topic", k.dead_letters, "--changelog-topic", k.changelog]
    command += ["--client", client, "--processing-guarantee", guarantee.replace(" ", "-")]
    return [*command, *(["--scores"] if task.every else [])]


def kafka_streams(guarantee: str, store: str, task: Task) -> list[str]:
    """The peer in Java; `store` is rocksdb or memory."""
    given = {
        "bootstrap": task.kafka.bootstrap_servers, "group": task.kafka.group, "ticks": task.kafka.ticks,
        "scores": task.kafka.scores, "model": str(find(task.cell)), "guarantee": guarantee, "store": store,
        "folder": str(task.folder), "every": str(task.every).lower(), "commit": "100",
    }  # fmt: skip
    java = ["java", "-Xmx2g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    built = BUILT / "kafka-streams"
    return [*java, "-cp", f"{built}/classes:{built}/libs/*", "Peer", *(f"{k}={v}" for k, v in given.items())]


def quix(guarantee: str, task: Task) -> list[str]:
    """The peer written with Quix Streams."""
    return [
        *_python(BUILT / "quix" / "bin" / "python", "quix", task),
        "--guarantee",
        guarantee,
        "--folder",
        str(task.folder),
    ]


def by_hand(task: Task) -> list[str]:
    """The loop written by hand."""
    return _python(Path(sys.executable), "by_hand", task)


def _python(python: Path, script: str, task: Task) -> list[str]:
    command = [str(python), str(PEERS / f"{script}.py"), "--bootstrap", task.kafka.bootstrap_servers]
    command += ["--group", task.kafka.group, "--ticks", task.kafka.ticks, "--scores", task.kafka.scores]
    return [*command, "--model", str(find(task.cell)), *(["--every"] if task.every else [])]


OURS = [
    Contestant("tickwatch", client, guarantee, True, partial(tickwatch, client, guarantee), 5.0)
    for client, guarantee in product(CLIENTS, (ONCE, AT_LEAST_ONCE))
]
THEIRS = [
    Contestant("Kafka Streams, RocksDB", "Java", ONCE, True, partial(kafka_streams, "exactly_once_v2", "rocksdb")),
    Contestant("Kafka Streams, memory", "Java", ONCE, True, partial(kafka_streams, "exactly_once_v2", "memory")),
    Contestant(
        "Kafka Streams, RocksDB", "Java", AT_LEAST_ONCE, True, partial(kafka_streams, "at_least_once", "rocksdb")
    ),
    Contestant("Quix Streams, RocksDB", "confluent-kafka", ONCE, True, partial(quix, "exactly-once"), 0.25),
    Contestant("Quix Streams, RocksDB", "confluent-kafka", AT_LEAST_ONCE, True, partial(quix, "at-least-once"), 0.25),
    Contestant("by hand", "kafka-python", AT_LEAST_ONCE, False, by_hand, 0.25),
]


def build(told: Callable[[str], None]) -> None:
    """Get and build what the peers need, once; the one in Java again when its source changes."""
    java = BUILT / "kafka-streams"
    changed = max(path.stat().st_mtime for path in (PEERS / "kafka-streams").rglob("*") if path.is_file())
    if not (java / "built").exists() or (java / "built").stat().st_mtime < changed:
        told("building the peer in Java")
        into = [f"-Dinto={java}", "compile", "dependency:copy-dependencies", f"-DoutputDirectory={java / 'libs'}"]
        subprocess.run(["mvn", "-q", "-B", "-f", str(PEERS / "kafka-streams"), *into], check=True)  # noqa: S603, S607
        (java / "built").touch()
    python = BUILT / "quix"
    if not (python / "built").exists():
        told("installing Quix Streams")
        shutil.rmtree(python, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)  # noqa: S603
        install = [str(python / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "quixstreams==3.28.1", "onnxruntime", "numpy"], check=True)  # noqa: S603
        (python / "built").touch()
