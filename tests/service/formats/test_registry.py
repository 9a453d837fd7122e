"""A schema that a record names is asked for once; what can't be had is a dead letter or a clear line, never a guess."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from service.errors import TickwatchError
from service.formats import avro, decoder
from service.formats.framing import Unreadable
from service.formats.registry import ASK_AGAIN_S, PAUSES_S, Registry, Schemas
from tests.service.formats.stub import Stub, knows_ticks
from tests.service.formats.test_conformance import GOOD
from tests.service.formats.wires import GUID, ID, WIRES

BY = {wire.name: wire for wire in WIRES}


def test_every_schema_is_asked_for_once_under_the_name_that_the_records_use(stub: Stub) -> None:
    decode = decoder("avro", Registry(knows_ticks(stub, "avro").url + "/"))
    for _ in range(2):
        for name in ("avro by id", "avro by guid", "avro by header"):
            assert len(decode(BY[name].records(GOOD, GOOD))[0]) == 2
    assert [path for path, _ in stub.asked] == [f"/schemas/ids/{ID}", f"/schemas/guids/{GUID}"]


def test_an_unknown_schema_is_a_dead_letter_and_asked_for_again_later(stub: Stub) -> None:
    now = 100.0
    schemas = Schemas(Registry(stub.url), "AVRO", avro.parse, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(Unreadable, match="schema ids/7 is unknown to the schema registry"):
            schemas.get("ids/7")
    assert len(stub.asked) == 1
    knows_ticks(stub, "avro")
    now += ASK_AGAIN_S
    assert schemas.get("ids/7")(BY["avro"].write(GOOD)).price == GOOD["price"]
    (letter,) = decoder("avro", Registry(stub.url))(BY["avro"].records(struct.pack(">bI", 0, 8) + b"x"))[1]
    assert letter.reason == "schema ids/8 is unknown to the schema registry"


@pytest.mark.parametrize("start", [b"", b"\0\0\0", b"\2\0\0\0\7", b"\1" + b"x" * 15, b"{"])
def test_a_record_that_names_no_schema_is_a_dead_letter_and_nobody_is_asked(stub: Stub, start: bytes) -> None:
    for kind in ("avro", "protobuf"):
        decode = decoder(kind, Registry(stub.url))
        assert len(decode(BY[kind].records(start or None))[1]) == 1
    assert stub.asked == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"schema": "{}", "schemaType": "JSON"}, "is JSON, --format reads AVRO"),
        ({"schema": '"string"'}, "not an Avro schema of a record"),
        ({"schema": "nonsense"}, "not an Avro schema of a record"),
        ({"schema": '{"type":"record","name":"T","fields":[{"name":"ts","type":"Other"}]}'}, "not an Avro schema"),
        ({"schema": '{"type":"record","name":"T","fields":[{"name":"ts","type":"long"}]}'}, "without price"),
        ({"schema": "{}", "references": [{"name": "a", "subject": "a", "version": 1}]}, "refers to other schemas"),
    ],
)
def test_a_schema_that_is_not_one_of_ticks_is_the_reason_of_a_dead_letter(
    stub: Stub, answer: dict[str, Any], reason: str
) -> None:
    stub.hold(f"ids/{ID}", **answer)
    (letter,) = decoder("avro", Registry(stub.url))(BY["avro by id"].records(GOOD))[1]
    assert letter.reason.startswith(f"schema ids/{ID}")
    assert reason in letter.reason


def test_a_registry_that_is_down_is_tried_again_and_then_named(stub: Stub) -> None:
    slept: list[float] = []
    stub.otherwise = 503, b"later"
    decode = decoder("avro", Registry(stub.url, sleep=slept.append))
    with pytest.raises(TickwatchError, match=f"{stub.url}/schemas/ids/7: no answer in 3 attempts .*503"):
        decode(BY["avro by id"].records(GOOD))
    assert slept == list(PAUSES_S)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(TickwatchError, match="is it running"):
        Registry(free, sleep=slept.append).ask("schemas/ids/7")


def test_a_registry_that_comes_back_in_time_is_not_noticed(stub: Stub) -> None:
    stub.otherwise = 503, b"later"

    def register(seconds: float) -> None:
        knows_ticks(stub, "avro")

    decode = decoder("avro", Registry(stub.url, sleep=register))
    assert len(decode(BY["avro by id"].records(GOOD))[0]) == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(401, b"", "refuses us"), (404, b"<html>", "no schema registry"), (200, b"<html>", "not an answer")],
)
def test_what_only_a_person_can_mend_is_said(stub: Stub, status: int, body: bytes, words: str) -> None:
    stub.otherwise = status, body
    with pytest.raises(TickwatchError, match=words):
        decoder("avro", Registry(stub.url))(BY["avro by id"].records(GOOD))
    assert len(stub.asked) == 1


def test_the_login_is_sent_and_never_shown(stub: Stub) -> None:
    registry = Registry(knows_ticks(stub, "avro").url, "me:secret")
    decoder("avro", registry)(BY["avro by id"].records(GOOD))
    assert stub.asked[0][1] == "Basic bWU6c2VjcmV0"
    assert "secret" not in repr(registry)


def test_settings_that_contradict_each_other_are_refused(stub: Stub) -> None:
    with pytest.raises(TickwatchError, match="must begin with http"):
        Registry("registry:8081")
    for name in ("json", "binary"):
        with pytest.raises(TickwatchError, match=f"--format is {name}"):
            decoder(name, Registry(stub.url))
    with pytest.raises(TickwatchError, match="json, avro, protobuf or binary"):
        decoder("xml")
