"""The topics that a worker needs: making them, and saying exactly which of them is wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from service.connection import KafkaSettings, connect, explain_error
from service.errors import TickwatchError
from service.logs.changelog import RECORD_BYTES

COMMAND = "tickwatch topics create"
DAY_MS = 86_400_000
KNOWN_S = 5.0  # until every broker of a cluster knows a topic that was made a moment ago


@dataclass(frozen=True)
class Found:
    """A topic as the cluster has it; `partitions` is 0 if it does not exist."""

    partitions: int = 0
    replication: int = 0
    config: dict[str, str] = field(default_factory=dict)


def wanted(settings: KafkaSettings, replication: int) -> dict[str, dict[str, str]]:
    """Configuration of each topic, by name."""
    safe = {"min.insync.replicas": str(max(1, replication - 1))}
    plain = safe | {"cleanup.policy": "delete"}
    return {
        settings.ticks: plain,
        settings.alerts: plain,
        settings.scores: plain,
        settings.dead_letters: plain,
        settings.changelog: safe
        | {
            "cleanup.policy": "compact",
            "max.message.bytes": str(RECORD_BYTES),
            "min.cleanable.dirty.ratio": "0.3",
            "segment.bytes": str(128 * 1024 * 1024),
            "max.compaction.lag.ms": str(DAY_MS),  # also rolls the segments of a quiet partition
        },
    }


def create_topics(settings: KafkaSettings, partitions: int = 8, replication: int = 3) -> list[str]:
    """Create the topics that do not exist yet and return their names; then check all of them.

    The changelog gets as many partitions as the topic of ticks has. Raises TickwatchError.
    """
    admin = connect(settings, KafkaAdminClient)
    try:
        found = _describe(admin, settings)
        partitions = found[settings.ticks].partitions or partitions
        made = [name for name, topic in found.items() if not topic.partitions]
        for name in made:
            config = wanted(settings, replication)[name]
            admin.create_topics(
                {name: {"num_partitions": partitions, "replication_factor": replication, "configs": config}},
                wait_for_metadata=True,
            )
    except TopicAlreadyExistsError:  # another one was faster
        pass
    except KafkaError as error:
        raise explain_error(settings, error) from error
    finally:
        admin.close()
    check_topics(settings)
    return made


def check_topics(settings: KafkaSettings) -> None:
    """Raise a TickwatchError that names the first topic with which a worker would not be safe."""
    admin = connect(settings, KafkaAdminClient)
    until = time.monotonic() + KNOWN_S
    try:
        found = _describe(admin, settings)
        while not all(topic.partitions for topic in found.values()) and time.monotonic() < until:
            time.sleep(0.2)
            found = _describe(admin, settings)
    except KafkaError as error:
        raise explain_error(settings, error) from error
    finally:
        admin.close()
    for name, topic in found.items():
        if not topic.partitions:
            raise TickwatchError(
                f"topic {name} does not exist at {settings.bootstrap_servers}; create it with `{COMMAND}`"
            )
    problem = _problem(found[settings.changelog], found[settings.ticks].partitions)
    if problem is not None:
        raise TickwatchError(
            f"topic {settings.changelog} {problem}; delete it while it holds nothing of worth, or name another one, and run"
            f" `{COMMAND}`"
        )


def _problem(changelog: Found, partitions: int) -> str | None:
    """What is wrong with the changelog, in words."""
    if changelog.partitions != partitions:
        return f"has {changelog.partitions} partitions, needed are {partitions}, as many as the topic of ticks has"
    policy = changelog.config.get("cleanup.policy", "")
    if policy != "compact":
        return f"has cleanup.policy={policy}, needed is compact: state would be deleted with age"
    least = max(1, changelog.replication - 1)
    in_sync = int(changelog.config.get("min.insync.replicas", "1"))
    if in_sync < least:
        return f"has min.insync.replicas={in_sync}, needed are {least} of its {changelog.replication} replicas"
    record_bytes = int(changelog.config.get("max.message.bytes", "0"))
    if record_bytes < RECORD_BYTES:
        return f"has max.message.bytes={record_bytes}, needed are {RECORD_BYTES}"
    return None


def _describe(admin: KafkaAdminClient, settings: KafkaSettings) -> dict[str, Found]:
    names = list(wanted(settings, 1))
    found = {}
    for topic in admin.describe_topics(names):
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError(topic["name"])
        parts = topic["partitions"]
        found[topic["name"]] = Found(len(parts), min((len(p["replica_nodes"]) for p in parts), default=0))
    changelog = found[settings.changelog]
    if changelog.partitions:
        resource = ConfigResource(ConfigResourceType.TOPIC, settings.changelog)
        config = admin.describe_configs([resource], config_filter="all")["topic"][settings.changelog]
        values = {key: str(entry["value"]) for key, entry in config.items()}
        found[settings.changelog] = Found(changelog.partitions, changelog.replication, values)
    return {name: found[name] for name in names}
