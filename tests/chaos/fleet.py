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
    """Workers by their instance names; `stand_ins` are second processes under the name of a frozen one."""

    settings: KafkaSettings
    cell: str
    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    zombies: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)  # by themselves, which only a watchdog or a fence may do

    def start(self, name: str) -> None:
        """Run a worker."""
        topics = self.settings
        command = [sys.executable, "-c", "from service.cli import main; main()", "worker", "--port", "0", "--scores"]
        command += ["--model", self.cell, "--bootstrap-servers", topics.bootstrap_servers, "--group", topics.group]
        command += ["--instance", name, "--ticks-topic", topics.ticks, "--alerts-topic", topics.alerts]
        command += ["--scores-topic", topics.scores, "--dead-letters-topic", topics.dead_letters]
        command += ["--changelog-topic", topics.changelog]
        with (self.folder / f"{name}.err").open("ab") as err:
            err.write(b"---- started\n")
            self.running[name] = subprocess.Popen(command, cwd=ROOT, stderr=err, stdin=subprocess.DEVNULL)

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
        self.zombies.append(zombie)
        self.start(name)
        return zombie

    def supervise(self) -> None:
        """Start again what ended by itself."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                self.ended.append((name, process.returncode))
                self.start(name)

    def owned(self, name: str) -> set[int]:
        """The partitions that the group has given to a worker, empty when nobody can be asked."""
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.settings.bootstrap_servers.split(","), bootstrap_timeout_ms=500)
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
        """SIGTERM all; what did not go well, in sentences."""
        wrong = []
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + timeout_s
        for name, process in self.running.items():
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
                if code:
                    wrong.append(f"worker {name} ended with code {code} at SIGTERM")
            except subprocess.TimeoutExpired:
                wrong.append(f"worker {name} did not end within {timeout_s:.0f} s of SIGTERM")
        for zombie in self.zombies:
            if zombie.poll() is None:
                wrong.append(f"a worker whose name was taken still runs (pid {zombie.pid})")
            elif zombie.returncode != 1:
                wrong.append(f"a worker whose name was taken ended with code {zombie.returncode}, not 1")
        self.abandon()
        return wrong

    def abandon(self) -> None:
        """kill -9 whatever is left."""
        for process in [*self.running.values(), *self.zombies]:
            process.kill()
            process.wait()
