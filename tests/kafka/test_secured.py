"""TLS, SCRAM-SHA-512 and ACLs against a broker that has them; and the sentence for each way to get them wrong."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from service.connection import KafkaSettings
from service.errors import TickwatchError
from service.logs.client import CLIENTS
from service.topics import check_topics, create_topics
from tests.kafka.broker import Broker, free_ports, produce, read_all
from tests.kafka.toy import Toy, names

PASSWORD = "correct horse"


@dataclass(frozen=True)
class Secured:
    """A broker with a listener for everyone and, for the worker, one with TLS, SCRAM and ACLs."""

    broker: Broker
    settings: KafkaSettings

    def of_its_own(self, prefix: str) -> KafkaSettings:
        """Topics and a group on which nobody has a right yet."""
        found = names(self.broker.bootstrap, prefix, "one")
        create_topics(found, partitions=1, replication=1)
        good = self.settings
        return replace(
            found,
            bootstrap_servers=good.bootstrap_servers,
            security_protocol=good.security_protocol,
            ca_file=good.ca_file,
            username=good.username,
            password=good.password,
        )

    def grant(self, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
        """Allow the worker's user something."""
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        pattern = ResourcePattern(kind, name)
        admin.create_acls([ACL("User:worker", "*", op, ACLPermissionType.ALLOW, pattern) for op in operations])
        admin.close()


@pytest.fixture(scope="module")
def secured(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Started once; its certificate is its own authority."""
    folder = tmp_path_factory.mktemp("secured")
    store = ["-keystore", str(folder / "broker.p12"), "-storepass", "changeit", "-alias", "broker"]
    make = ["keytool", "-genkeypair", "-keyalg", "EC", "-dname", "CN=broker", "-ext", "san=ip:127.0.0.1"]
    subprocess.run([*make, "-storetype", "PKCS12", *store], check=True, capture_output=True)
    subprocess.run(
        ["keytool", "-exportcert", "-rfc", *store, "-file", str(folder / "ca.pem")], check=True, capture_output=True
    )
    (port,) = free_ports(1)
    broker = Broker(
        folder / "broker",
        listeners={"SECURE": port},
        scram=[f"SCRAM-SHA-512=[name=worker,password={PASSWORD}]"],
        extra={
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(folder / "broker.p12"),
            "ssl.keystore.password": "changeit",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    try:
        broker.format()
        broker.start()
        create_topics(names(broker.bootstrap, "s", "one"), partitions=1, replication=1)
        settings = replace(
            names(f"127.0.0.1:{port}", "s", "one"),
            security_protocol="SASL_SSL",
            ca_file=folder / "ca.pem",
            username="worker",
            password=PASSWORD,
        )
        yield Secured(broker, settings)
    finally:
        broker.kill()


def refusal(settings: KafkaSettings, client: str = "kafka-python") -> str:
    """What a worker with these settings dies of."""
    toy = Toy(settings, client=client)
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            toy.step()
    except TickwatchError as error:
        return str(error)
    finally:
        toy.log.close()
    return "nothing, it went on trying"


def test_each_mistake_has_its_own_sentence(secured: Secured, tmp_path: Path) -> None:
    good, plain = secured.settings, secured.broker.bootstrap
    wrong = refusal(replace(good, password="battery staple"))
    assert "wrong user or password (SASL_SSL with SCRAM-SHA-512 as user 'worker')" in wrong
    assert "battery" not in wrong
    assert "not signed by a trusted authority" in refusal(replace(good, ca_file=None))
    assert "speaks TLS, not plaintext" in refusal(replace(good, security_protocol="SASL_PLAINTEXT"))
    assert "speaks plaintext, not TLS" in refusal(replace(good, bootstrap_servers=plain))
    assert "no.pem" in refusal(replace(good, ca_file=tmp_path / "no.pem"))
    assert PASSWORD not in repr(good)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_missing_right_is_named_and_with_all_rights_it_works(secured: Secured, client: str) -> None:
    settings = secured.of_its_own(client)
    assert "denies user 'worker' something that a worker needs" in refusal(settings, client)
    read, write, describe = ACLOperation.READ, ACLOperation.WRITE, ACLOperation.DESCRIBE
    secured.grant(ResourceType.GROUP, settings.group, read)
    secured.grant(ResourceType.TOPIC, settings.ticks, read)
    secured.grant(ResourceType.TRANSACTIONAL_ID, f"{settings.group}.{settings.instance}", write, describe)
    for topic in (settings.alerts, settings.scores, settings.dead_letters):
        secured.grant(ResourceType.TOPIC, topic, write)
    secured.grant(ResourceType.TOPIC, settings.changelog, read, ACLOperation.DESCRIBE_CONFIGS)
    produce(secured.broker.bootstrap, settings.ticks, [(b"a", b"1"), (b"a", b"x")])
    assert settings.changelog in refusal(settings, client)
    secured.grant(ResourceType.TOPIC, settings.changelog, write)
    toy = Toy(settings, client=client)
    while not read_all(secured.broker.bootstrap, settings.alerts):
        toy.step()
    toy.log.close()
    assert [r.value for r in read_all(secured.broker.bootstrap, settings.alerts)] == [b"0 1 1"]
    assert [r.value for r in read_all(secured.broker.bootstrap, settings.dead_letters)] == [b"x"]


def test_topics_are_checked_with_the_same_settings(secured: Secured) -> None:
    with pytest.raises(TickwatchError, match="wrong user or password"):
        check_topics(replace(secured.settings, password="battery staple"))
