"""What the parts of `confluent.py` share: how to reach Kafka with librdkafka, and what its errors mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from service.connection import KafkaSettings, Unreachable, explain_denied, explain_replaced
from service.errors import TickwatchError

DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
FINAL = {*DENIED, KafkaError._FATAL}
FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()  # a consumer's fatal error has its cause only in words
QUIET = logging.getLogger("librdkafka")
QUIET.setLevel(logging.CRITICAL + 1)  # the worker says itself what matters of its errors


def config(settings: KafkaSettings) -> dict[str, Any]:
    """What every client needs to know."""
    found: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": f"tickwatch-{settings.instance}",
        "security.protocol": settings.security_protocol,
        "reconnect.backoff.max.ms": 2000,
        "log_level": 0,
        "logger": QUIET,
    }
    if settings.tls:
        files = {"ca": settings.ca_file, "certificate": settings.cert_file, "key": settings.key_file}
        found |= {f"ssl.{name}.location": str(path) for name, path in files.items() if path is not None}
    if settings.security_protocol.startswith("SASL"):
        found |= {"sasl.mechanisms": settings.sasl_mechanism}
        found |= {"sasl.username": settings.username, "sasl.password": settings.password}
    return found


def explain(settings: KafkaSettings, error: KafkaError) -> TickwatchError:
    """The project's own error for one of librdkafka's."""
    if error.code() in DENIED:
        return explain_denied(settings, error.str())
    if error.code() == KafkaError.FENCED_INSTANCE_ID or FENCED in error.str():
        return explain_replaced(settings)
    kind = TickwatchError if error.fatal() or error.code() == KafkaError._FATAL else Unreachable
    return kind(f"Kafka at {settings.bootstrap_servers}: {error.str()}")


@contextmanager
def explained(settings: KafkaSettings) -> Iterator[None]:
    """Raises the project's own errors for librdkafka's."""
    try:
        yield
    except KafkaException as error:
        raise explain(settings, error.args[0]) from error
