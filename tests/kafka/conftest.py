"""Topics of its own for each test, and toys as workers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.connection import KafkaSettings
from service.topics import create_topics
from tests.kafka.toy import Toy, fresh_names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client() -> str:
    """The client of the workers; a test that is parametrized with `client` runs with others."""
    return "kafka-python"


@pytest.fixture
def settings(kafka: str) -> KafkaSettings:
    """Topics with two partitions."""
    found = fresh_names(kafka)
    create_topics(found, partitions=2, replication=1)
    return found


@pytest.fixture
def toys(client: str) -> Iterator[Callable[..., Toy]]:
    """Makes toys and closes them at the end."""
    made: list[Toy] = []

    def make(*args: object, **options: object) -> Toy:
        made.append(Toy(*args, **{"client": client} | options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for toy in made:
        toy.log.close()


@pytest.fixture
def processes(client: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Runs toys as programs, what they say in `<instance>.err`, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(settings: KafkaSettings, instance: str, client: str = client) -> subprocess.Popen[bytes]:
        prefix = settings.group.removesuffix("-group")
        command = [sys.executable, "-m", "tests.kafka.toy", settings.bootstrap_servers, prefix, instance, client]
        with (tmp_path / f"{instance}.err").open("wb") as err:
            started.append(subprocess.Popen(command, cwd=ROOT, stderr=err))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
