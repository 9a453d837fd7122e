"""A real Apache Kafka broker in one process, for the tests and the chaos tool: KRaft, loopback, no Docker."""

from __future__ import annotations

import fcntl
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

HERE = Path(__file__).parent
JARS = HERE.parents[1] / ".cache" / "kafka"
CLUSTER_ID = "dGlja3dhdGNoLXRlc3RzIQ"  # any 16 bytes in base64
STARTED = re.compile(r"Kafka Server started")
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "auto.create.topics.enable": "false",
    "broker.session.timeout.ms": "3000",  # until a killed broker may come back under its number
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.backoff.ms": "500",  # compaction within the patience of a test
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def missing() -> str | None:
    """Why no broker can be started here, None if one can."""
    for tool in ("java", *(() if _jars() else ("mvn",))):
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed and TICKWATCH_TEST_KAFKA names no broker"
    return None


def _jars() -> bool:
    return any(JARS.glob("kafka_2.13-*.jar"))


def fetch_jars() -> None:
    """Get the broker's jars through Maven, once, into `.cache/kafka`."""
    JARS.parent.mkdir(exist_ok=True)
    with JARS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of tests may begin at once
        if not _jars():
            fresh = JARS.with_suffix(".part")  # renamed when complete: an interrupted download leaves nothing half
            pom = str(HERE / "pom.xml")
            command = ["mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            fresh.rename(JARS)


def free_ports(n: int) -> list[int]:
    """`n` ports of the loopback interface that nobody uses at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Broker:
    """One broker and controller with its files under `folder`. `start` and `kill` may alternate: the data stay.

    `quorum` lists (node id, controller port) of all nodes of the cluster, this one included. `extra` overrides server
    properties; with `listeners` it may add more of them. `scram` holds `name=SCRAM-SHA-512=[...]` users to format with.
    """

    folder: Path
    node_id: int = 1
    port: int = 0
    quorum: Sequence[tuple[int, int]] = ()
    extra: dict[str, str] = field(default_factory=dict)
    listeners: dict[str, int] = field(default_factory=dict)
    scram: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        if not self.port:
            (self.port,) = free_ports(1)
        if not self.quorum:
            self.quorum = [(self.node_id, free_ports(1)[0])]

    @property
    def bootstrap(self) -> str:
        """Address of the plain listener."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Where the broker writes what it does."""
        return self.folder / "broker.log"

    def format(self) -> None:
        """Write the configuration and an empty storage; once, before the first start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replicas = str(min(3, len(self.quorum)))
        shared = {"PLAINTEXT": self.port, **self.listeners}
        listening = {**shared, "CONTROLLER": dict(self.quorum)[self.node_id]}
        properties = SETTINGS | {
            "node.id": str(self.node_id),
            "log.dirs": str(self.folder / "data"),
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p}" for n, p in self.quorum),
            "listeners": ",".join(f"{name}://127.0.0.1:{p}" for name, p in listening.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{p}" for name, p in shared.items()),
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": str(max(1, int(replicas) - 1)),
        }
        text = "".join(f"{key}={value}\n" for key, value in (properties | self.extra).items())
        (self.folder / "server.properties").write_text(text)
        users = [word for user in self.scram for word in ("--add-scram", user)]
        self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties", *users).wait()

    def start(self, timeout_s: float = 60) -> None:
        """Run it and wait until it serves; RuntimeError with the end of its log if it does not."""
        self.launch()
        self.wait(timeout_s)

    def launch(self) -> None:
        """Run it without waiting, as the first of several nodes needs it."""
        self.log.write_bytes(b"")
        self.process = self._java("kafka.Kafka", "server.properties")

    def wait(self, timeout_s: float = 60) -> None:
        """Wait until it serves."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            if STARTED.search(self.log.read_text(errors="replace")):
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(
            "the broker did not start:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        )

    def kill(self) -> None:
        """kill -9: no goodbye, as in a power cut of the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Freeze it (SIGSTOP)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.kafka.server=info"]
        command += ["-cp", f"{JARS}/*", *arguments]
        with self.log.open("ab") as out:
            return subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL)


def produce(
    bootstrap: str, topic: str, records: Sequence[tuple[bytes | None, bytes | None]], partition: int | None = None
) -> None:
    """Append (key, value) records and wait until the broker has them all."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, batch_size=262_144, max_request_size=8_000_000)
    try:
        sent = [producer.send(topic, value, key, partition=partition) for key, value in records]
        producer.flush(60)
        for future in sent:
            future.get(0)
    finally:
        producer.close(timeout=10)


@dataclass(frozen=True)
class Seen:
    """One record as a reader sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_all(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[Seen]:
    """All records of a topic up to its present end, by partition and offset."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        found: list[Seen] = []
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        deadline = time.monotonic() + 30
        while any(consumer.position(tp) < ends[tp] for tp in partitions):
            for batch in consumer.poll(200, max_records=100_000).values():
                found += [Seen(r.partition, r.offset, r.key, r.value, dict(r.headers)) for r in batch]
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{topic}: {ends} not reached, stands at {[consumer.position(tp) for tp in partitions]}"
                )
        return sorted(
            (r for r in found if r.offset < ends[TopicPartition(topic, r.partition)]),
            key=lambda r: (r.partition, r.offset),
        )
    finally:
        consumer.close()


@contextmanager
def own_broker() -> Iterator[str]:
    """The address of a lone broker that lives for the block, in a folder of its own."""
    fetch_jars()
    with TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker")
        try:
            broker.format()
            broker.start()
            yield broker.bootstrap
        finally:
            broker.kill()
