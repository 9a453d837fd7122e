"""Ticks of other people's Protobuf messages: fields by name, any message of the file, presence where there is any."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from service.formats import decoder, protobuf
from service.formats.framing import Unreadable, unframe
from service.formats.registry import Registry
from service.ticks import Ticks
from tests.service.formats.stub import Stub
from tests.service.formats.test_conformance import GOOD
from tests.service.formats.wires import BY_GUID, BY_ID, ID, WIRES, Wire

FIELD = descriptor_pb2.FieldDescriptorProto
(FRAMED,) = (wire for wire in WIRES if wire.name == "protobuf by id")


def feed_file() -> descriptor_pb2.FileDescriptorProto:
    """message Status {} message Feed { message Quote { double price = 5; google.protobuf.Timestamp ts = 2; float bid = 3; } }."""
    file = descriptor_pb2.FileDescriptorProto(name="feed.proto", package="market.v1", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="Status")
    quote = file.message_type.add(name="Feed").nested_type.add(name="Quote")
    quote.field.add(name="price", number=5, type=FIELD.TYPE_DOUBLE, label=FIELD.LABEL_OPTIONAL)
    quote.field.add(
        name="ts", number=2, type=FIELD.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=FIELD.LABEL_OPTIONAL
    )
    quote.field.add(name="bid", number=3, type=FIELD.TYPE_FLOAT, label=FIELD.LABEL_OPTIONAL)
    quote.field.add(name="venue", number=9, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    return file


def quote(**fields: Any) -> bytes:
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(feed_file().SerializeToString())
    kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("market.v1.Feed.Quote"))
    value: bytes = kind(**fields).SerializeToString()
    return value


def read(stub: Stub, place: bytes, value: bytes) -> tuple[Ticks, list[str]]:
    text = base64.b64encode(feed_file().SerializeToString()).decode()
    stub.hold(f"ids/{ID}", "?format=serialized", schema=text, schemaType="PROTOBUF")
    wire = Wire("feed", "protobuf", lambda _: value, BY_ID + place)
    ticks, rejects = decoder("protobuf", Registry(stub.url))(wire.records({}, key=b"K"))
    return ticks, [letter.reason for letter in rejects]


def test_a_nested_message_is_found_by_its_place_and_its_fields_by_name(stub: Stub) -> None:
    when = {"seconds": 1_700_000_000, "nanos": 123_456_789}
    ticks, rejects = read(stub, b"\4\2\0", quote(price=2.5, ts=when, bid=2.0, venue="X"))
    assert rejects == []
    assert (ticks.stream, ticks.ts[0], ticks.price[0], ticks.bid[0]) == (["K"], 1_700_000_000_123_456_789, 2.5, 2.0)


def test_a_price_without_presence_may_be_zero_and_other_numbers_are_then_missing(stub: Stub) -> None:
    ticks, rejects = read(stub, b"\4\2\0", quote(price=0.0, ts={"seconds": 1}, bid=0.0))
    assert rejects == []
    assert ticks.price[0] == 0.0
    assert ticks.bid[0] != ticks.bid[0]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (b"\0", "message market.v1.Status has no field price and ts"),
        (b"\2\6", "its schema has no message at [3]"),
        (b"\2\1", "which message it is"),
        (b"\2\xff\xff", "which message it is"),
    ],
)
def test_a_place_without_ticks_is_the_reason_of_a_dead_letter(stub: Stub, place: bytes, reason: str) -> None:
    ticks, (said,) = read(stub, place, quote(price=1.0))
    assert len(ticks) == 0
    assert reason in said


def test_a_framed_record_without_a_registry_says_which_setting_is_missing() -> None:
    (letter,) = decoder("protobuf")(FRAMED.records(GOOD))[1]
    assert letter.reason == "record is framed for a schema registry: set --schema-registry"


def test_a_file_that_needs_others_is_refused() -> None:
    file = feed_file()
    file.dependency.append("money.proto")
    for text in (base64.b64encode(file.SerializeToString()).decode(), "?", base64.b64encode(b"junk").decode()):
        with pytest.raises(Unreadable, match="not a Protobuf file that stands alone"):
            protobuf.parse(text)


def test_the_place_in_a_header_leaves_the_value_alone() -> None:
    path, rest, value = unframe(b"value", BY_GUID + b"\4\2\0")
    assert (path[:6], protobuf.indexes(rest), value) == ("guids/", ((1, 0), b""), b"value")
