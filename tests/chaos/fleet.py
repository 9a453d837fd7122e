"""The processes that a chaos run hurts: brokers, and workers under a supervisor that starts them again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from service.connection import KafkaSettings
from tests.kafka.broker import Broker, free_ports

WATCHDOG = 70  # exit code, which a broker that is away for long may cause
ROOT = Path(__file__).parents[2]


def cluster(folder: Path, n: int) -> list[Broker]:
    """`n` brokers that know each other, formatted and running."""
    ports = free_ports(n)
    quorum = list(enumerate(ports, start=1))
    brokers = [Broker(folder / f"broker{node}", node, quorum=quorum) for node, _ in quorum]
    for broker in brokers:
        broker.format()
    for broker in brokers:
        broker.launch()
    for broker in brokers:
        broker.wait()
    return brokers


@dataclass
class Fleet:
    """Workers by their instance names; `zombies` are those that were frozen when another process took their name."""

    settings: KafkaSettings
    cell: str
    client: str
    guarantee: str
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    zombies: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    contested: set[str] = field(default_factory=set)  # names that two processes have
    said: dict[int, Path] = field(default_factory=dict)  # process id -> file of what it says
    ended: list[tuple[str, int]] = field(default_factory=list)  # by themselves or not well, with exit codes

    def start(self, name: str) -> None:
        """Run a worker."""
        topics = self.settings
        command = [sys.executable, "-c", "from service.cli import main; main()", "worker", "--port", "0", "--scores"]
        command += ["--model", self.cell, "--bootstrap-servers", topics.bootstrap_servers, "--group", topics.group]
        command += ["--instance", name, "--ticks-topic", topics.ticks, "--alerts-topic", topics.alerts]
        command += ["--scores-topic", topics.scores, "--dead-letters-topic", topics.dead_letters]
        command += ["--changelog-topic", topics.changelog, "--client", self.client]
        command += ["--processing-guarantee", self.guarantee]
        said = self.folder / f"{name}.{len(self.said)}.err"
        with said.open("wb") as err:
            self.running[name] = subprocess.Popen(command, cwd=ROOT, stderr=err, stdin=subprocess.DEVNULL)
        self.said[self.running[name].pid] = said

    def kill(self, name: str) -> None:
        """kill -9 and start it again at once, as a supervisor does."""
        process = self.running.pop(name)
        process.kill()
        process.wait()
        self.start(name)

    def stop(self, name: str) -> subprocess.Popen[bytes]:
        """SIGTERM."""
        process = self.running.pop(name)
        process.terminate()
        return process

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.running[name].send_signal(signal.SIGSTOP)
        self.frozen.add(name)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.running[name].send_signal(signal.SIGCONT)
        self.frozen.discard(name)

    def replace_frozen(self, name: str) -> subprocess.Popen[bytes]:
        """Start a second worker under the name of a frozen one, which is returned."""
        zombie = self.running.pop(name)
        self.frozen.discard(name)
        self.zombies.append((name, zombie))
        self.start(name)
        return zombie

    def check(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Take note of a worker that did not end well at SIGTERM; one that does not listen yet ends by the signal."""
        young = "reads topic" not in self.said[process.pid].read_text(errors="replace")
        if process.returncode and not (young and process.returncode == -signal.SIGTERM):
            self.ended.append((name, process.returncode))

    def supervise(self) -> None:
        """Start again what ended by itself."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                if process.returncode != 1 or name not in self.contested:  # the one of two that joined first gives in
                    self.ended.append((name, process.returncode))
                self.start(name)
        self.contested = {name for name, zombie in self.zombies if zombie.poll() is None}

    def owned(self, name: str) -> set[int]:
        """The partitions that the group has given to a worker, empty when nobody can be asked."""
        try:
            admin = KafkaAdminClient(
                bootstrap_servers=self.settings.bootstrap_servers.split(","), bootstrap_timeout_ms=500
            )
        except KafkaError:
            return set()
        try:
            for member in admin.describe_groups([self.settings.group])[self.settings.group]["members"]:
                assignment = member["member_assignment"]
                if member["group_instance_id"] == name and assignment:
                    return {p for topic in assignment["assigned_partitions"] for p in topic["partitions"]}
        except (KafkaError, KeyError, TypeError):
            pass
        finally:
            admin.close()
        return set()

    def finish(self, timeout_s: float = 30) -> list[str]:
        """SIGTERM all once the zombies have ended by themselves; what did not go well, in sentences."""
        wrong = []
        deadline = time.monotonic() + timeout_s
        while self.contested and time.monotonic() < deadline:
            self.supervise()
            time.sleep(0.05)
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + timeout_s
        for name, process in self.running.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
                self.check(name, process)
            except subprocess.TimeoutExpired:
                wrong.append(f"worker {name} did not end within {timeout_s:.0f} s of SIGTERM")
        for name, zombie in self.zombies:
            if zombie.poll() is None:
                wrong.append(f"a worker whose name {name} was taken still runs (pid {zombie.pid})")
            elif zombie.returncode != 1:
                wrong.append(f"a worker whose name {name} was taken ended with code {zombie.returncode}, not 1")
        wrong += [f"worker {name} ended by itself with code {code}" for name, code in self.ended if code != WATCHDOG]
        self.abandon()
        return wrong

    def abandon(self) -> None:
        """kill -9 whatever is left."""
        for process in [*self.running.values(), *(zombie for _, zombie in self.zombies)]:
            process.kill()
            process.wait()
