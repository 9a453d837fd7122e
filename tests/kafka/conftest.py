"""Topics of its own for each test."""

from __future__ import annotations

import pytest

from service.connection import KafkaSettings
from service.topics import create_topics
from tests.kafka.toy import fresh_names


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
