"""How to reach Kafka, and what to say when it cannot be reached."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient

from service.errors import TickwatchError
from service.sockets import DIRECT

Client = TypeVar("Client")
ATTEMPT_MS = 3000
PROBE_S = 2.0
METADATA_MS = 10  # between two questions about topics: kafka-python waits 100 and has no setting (net/manager.py)


def host_name() -> str:
    """Name of this machine or pod, in the characters that Kafka allows for an instance id."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "tickwatch"


@dataclass(frozen=True)
class KafkaSettings:
    """Where Kafka is, who we are there, and the topics in use.

    `instance` must differ between the workers of a group and stay the same over restarts of one: it is the static group
    member and, with the group, the transactional id. `security_protocol` is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; files
    are PEM.
    """

    bootstrap_servers: str = "localhost:9092"
    group: str = "tickwatch"
    ticks: str = "ticks"
    alerts: str = "alerts"
    scores: str = "scores"
    dead_letters: str = "dead-letters"
    changelog: str = "tickwatch-changelog"
    instance: str = field(default_factory=host_name)
    security_protocol: str = "PLAINTEXT"
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sasl_mechanism: str = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.security_protocol.endswith("SSL")

    def client(self) -> dict[str, Any]:
        """What every kafka-python client needs to know."""
        config: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": f"tickwatch-{self.instance}",
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": ATTEMPT_MS,
            "reconnect_backoff_max_ms": 2000,
            "proxy_url": f"{DIRECT}://",
        }
        if self.tls:
            config |= {
                f"ssl_{name}": str(path)
                for name, path in (("cafile", self.ca_file), ("certfile", self.cert_file), ("keyfile", self.key_file))
                if path is not None
            }
        if self.security_protocol.startswith("SASL"):
            config |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return config


class Unreachable(TickwatchError):
    """Nobody answers at the address: worth another attempt."""


class Unsettled(Unreachable):
    """A transaction is still open on what was asked for: another attempt will do."""


class Denied(TickwatchError):
    """We are not allowed to do it."""


class Reasons(logging.Handler):
    """Collects the exceptions that kafka-python only logs, and keeps them off the screen while a client connects."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Remember an exception among the arguments of a log call."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        self.errors += [a for a in arguments if isinstance(a, BaseException)]


def connect(settings: KafkaSettings, kind: Callable[..., Client], **options: Any) -> Client:
    """A kafka-python client of a kind (KafkaConsumer, KafkaProducer, KafkaAdminClient), in one attempt.

    Raises Unreachable, or another TickwatchError if trying again will not help.
    """
    made: list[KafkaNetClient] = []

    def network(**config: Any) -> KafkaNetClient:
        client = KafkaNetClient(**config)
        client.cluster.config["retry_backoff_ms"] = METADATA_MS
        made.append(client)
        return client

    for path in (settings.ca_file, settings.cert_file, settings.key_file):
        if path is not None and not path.is_file():
            raise TickwatchError(f"file {path}, given for the connection to Kafka, does not exist")
    reasons = Reasons()
    log = logging.getLogger("kafka")
    before = log.propagate, log.level
    log.addHandler(reasons)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        return kind(**settings.client(), **options, kafka_client=network)
    except (errors.KafkaError, OSError) as error:
        for client in made:  # or its thread and sockets would stay for ever
            client.close()
        raise explain(settings, [*reasons.errors, error]) from error
    finally:
        log.removeHandler(reasons)
        log.propagate, level = before
        log.setLevel(level)


def explain(settings: KafkaSettings, reasons: list[BaseException]) -> TickwatchError:
    """Why no broker let us in, from what the client met on its way and a look at the first address."""
    where = f"Kafka at {settings.bootstrap_servers}"
    tried = settings.security_protocol
    if settings.username and tried.startswith("SASL"):
        tried += f" with {settings.sasl_mechanism} as user {settings.username!r}"
    met = " ".join(f"{type(e).__name__}: {e}" for e in reasons)
    if "SaslAuthenticationFailed" in met or "SASL_AUTHENTICATION_FAILED" in met:
        return TickwatchError(f"{where}: wrong user or password ({tried})")
    if "UnsupportedSaslMechanism" in met:
        return TickwatchError(f"{where}: does not offer the mechanism ({tried}); set the SASL mechanism that it offers")
    if "CERTIFICATE_VERIFY_FAILED" in met:
        return TickwatchError(
            f"{where}: its certificate is not signed by a trusted authority or is for another host name ({tried}, CA file"
            f" {settings.ca_file or 'not set: the system store'}); give the CA that signed it"
        )
    spoken = spoken_at(settings.bootstrap_servers)
    if settings.tls and spoken == "plaintext":
        return TickwatchError(
            f"{where}: speaks plaintext, not TLS ({tried}); set the security protocol of that listener"
        )
    if not settings.tls and spoken == "TLS":
        return TickwatchError(
            f"{where}: speaks TLS, not plaintext ({tried}); set the security protocol SSL or SASL_SSL"
        )
    if spoken is not None and settings.security_protocol.startswith("SASL"):
        # kafka-python loses the broker's verdict now and then, when the end of the connection comes right behind it
        return Unreachable(f"{where}: ends the connection at login; most likely a wrong user or password ({tried})")
    if spoken is not None:
        return Unreachable(
            f"{where}: answers but lets nobody in ({tried}); it may be starting, or want another protocol"
        )
    why = next((str(e) for e in reasons if isinstance(e, OSError)), "no answer")
    return Unreachable(f"{where}: cannot be reached ({tried}; {why}); is it running, is the address right?")


def spoken_at(bootstrap_servers: str) -> str | None:
    """What the first address that answers speaks, "TLS" or "plaintext"; None if none answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only the kind of listener is asked for
    for address in bootstrap_servers.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), PROBE_S) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname=host):
                        return "TLS"
                except ssl.SSLError as error:
                    return "TLS" if "ALERT" in str(error) else "plaintext"
                except OSError:
                    return "plaintext"
        except (OSError, ValueError):
            continue
    return None


def explain_denied(settings: KafkaSettings, error: object) -> Denied:
    """Which rights a worker needs."""
    user = f"user {settings.username!r}" if settings.username else "this client"
    return Denied(
        f"Kafka at {settings.bootstrap_servers} denies {user} something that a worker needs ({error}); grant read on topic"
        f" {settings.ticks} and group {settings.group}; write on topics {settings.alerts}, {settings.scores},"
        f" {settings.dead_letters}; read, write and describe-configs on topic {settings.changelog}; write and describe on"
        f" transactional id {settings.group}.{settings.instance}"
    )


def explain_replaced(settings: KafkaSettings) -> TickwatchError:
    """What the one of two workers with one name is told that gives in."""
    return TickwatchError(
        f"group {settings.group}: another worker runs as instance {settings.instance} and took over; this one stops. Give each"
        " worker of the group an instance name of its own"
    )


def explain_error(settings: KafkaSettings, error: errors.KafkaError) -> TickwatchError:
    """What an error of an open connection means; Unreachable where another attempt may help."""
    denied = find_error(error, errors.AuthorizationError)
    if denied is not None:
        return explain_denied(settings, denied)
    if find_error(error, errors.FencedInstanceIdError) is not None:
        return explain_replaced(settings)
    kind = Unreachable if isinstance(error, errors.RetriableError) else TickwatchError
    return kind(f"Kafka at {settings.bootstrap_servers}: {error}")


def find_error(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of this kind that is behind another one: kafka-python wraps some in the arguments of a plain KafkaError."""
    while error is not None:
        if isinstance(error, kind):
            return error
        error = next((a for a in error.args if isinstance(a, BaseException)), None) or error.__cause__
    return None
