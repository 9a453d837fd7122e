"""Topics are made once and right, and a wrong one is named with what is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kafka import KafkaAdminClient

from service.connection import KafkaSettings
from service.errors import TickwatchError
from service.topics import check_topics, create_topics
from tests.kafka.toy import fresh_names


@pytest.fixture
def settings(kafka: str) -> KafkaSettings:
    """Names of topics that do not exist yet."""
    return fresh_names(kafka)


def make(settings: KafkaSettings, name: str, partitions: int, **config: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    configs = {key.replace("_", "."): value for key, value in config.items()}
    topic = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: topic}, wait_for_metadata=True)
    admin.close()


def test_topics_are_created_once(settings: KafkaSettings) -> None:
    with pytest.raises(TickwatchError, match=f"topic {settings.ticks} does not exist at .* `tickwatch topics create`"):
        check_topics(settings)
    made = create_topics(settings, partitions=3, replication=1)
    assert set(made) == {
        settings.ticks, settings.alerts, settings.scores, settings.dead_letters, settings.changelog
    }  # fmt: skip
    assert create_topics(settings, partitions=3, replication=1) == []
    check_topics(settings)


def test_the_changelog_follows_the_partitions_of_the_ticks(settings: KafkaSettings) -> None:
    make(settings, settings.ticks, 5)
    create_topics(settings, partitions=3, replication=1)
    make(settings, settings.ticks + "2", 4)
    with pytest.raises(TickwatchError, match="has 5 partitions, needed are 4, as many as the topic of ticks has"):
        check_topics(replace(settings, ticks=settings.ticks + "2"))


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        ({}, "has cleanup.policy=delete, needed is compact"),
        ({"cleanup_policy": "compact,delete"}, "has cleanup.policy=compact,delete, needed is compact"),
        ({"cleanup_policy": "compact"}, "has max.message.bytes=1048588, needed are 8388608"),
    ],
)
def test_a_wrong_changelog_is_refused(settings: KafkaSettings, config: dict[str, str], needed: str) -> None:
    make(settings, settings.changelog, 2, **config)
    with pytest.raises(TickwatchError, match=f"topic {settings.changelog} {needed}.*`tickwatch topics create`"):
        create_topics(settings, partitions=2, replication=1)


def test_more_replicas_than_brokers_is_one_sentence(settings: KafkaSettings) -> None:
    with pytest.raises(TickwatchError, match=r"Kafka at .*[Rr]eplication"):
        create_topics(settings, partitions=1, replication=5)
