"""Ticks in Protocol Buffers: fields by name where a schema registry knows the message, else those of tick.proto."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Final

from google.protobuf import descriptor_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from service.formats.framing import Unreadable, decode_each, to_tick, unframe
from service.formats.registry import Registry, Schemas
from service.logs import DeadLetter, Records
from service.ticks import NUMBERS, Decode, Tick, Ticks

TIMESTAMP: Final = timestamp_pb2.Timestamp.DESCRIPTOR.full_name
FIELD: Final = descriptor_pb2.FieldDescriptorProto
KINDS: Final = {"ts": FIELD.TYPE_INT64, "seq": FIELD.TYPE_INT64, "stream": FIELD.TYPE_STRING}
FIELDS: Final = ("ts", "price", "stream", *NUMBERS[1:], "seq")  # of tick.proto, numbered from 1; all are optional

Reader = Callable[[bytes], Tick]


def framed(registry: Registry) -> Decode:
    """See service.formats: what reads records that name their schema, and the message in it by its place."""
    schemas = Schemas(registry, "PROTOBUF", parse, "?format=serialized")

    def read(value: bytes, header: bytes | None) -> Tick:
        path, rest, payload = unframe(value, header)
        place, behind = indexes(rest)
        return schemas.get(path)(place)(behind if header is None else payload)

    return partial(decode_each, read)


def decode(records: Records) -> tuple[Ticks, list[DeadLetter]]:
    """See service.formats: records of the message in tick.proto, with nothing before them."""
    return decode_each(_read_bare, records)


def _read_bare(value: bytes, header: bytes | None) -> Tick:
    if value[:1] in (b"\0", b"\1"):  # no field has the number 0
        raise Unreadable("record is framed for a schema registry: set --schema-registry")
    return _TICK(value)


def indexes(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """(place of a message in its file, what follows it): a length and as many numbers, or 0 for the first message."""
    length, data = _zigzag(data)
    place = []
    for _ in range(length):
        index, data = _zigzag(data)
        place.append(index)
    return tuple(place) or (0,), data


def _zigzag(data: bytes) -> tuple[int, bytes]:
    """The varint of 0 to 63 at the beginning, zigzag as if it could be negative, and what follows it."""
    if not data or data[0] >= 0x80 or data[0] & 1:
        raise Unreadable("record does not say behind its schema, or not sensibly, which message it is")
    return data[0] >> 1, data[1:]


def parse(text: str) -> Callable[[tuple[int, ...]], Reader]:
    """What finds the reader of a message of a file by its place; `text` is the file's descriptor in base64."""
    file = descriptor_pb2.FileDescriptorProto()
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    try:
        file.ParseFromString(base64.b64decode(text, validate=True))
        file.name = file.name or "ticks.proto"
        pool.AddSerializedFile(file.SerializeToString())
    except (binascii.Error, DecodeError, TypeError) as error:
        raise Unreadable(f"not a Protobuf file that stands alone: {error}") from error

    @cache
    def reader(place: tuple[int, ...]) -> Reader:
        try:
            message = file.message_type[place[0]]
            names = [file.package, message.name]
            for index in place[1:]:
                message = message.nested_type[index]
                names.append(message.name)
        except IndexError:
            raise Unreadable(f"its schema has no message at {list(place)}") from None
        return _reader(pool.FindMessageTypeByName(".".join(filter(None, names))))

    return reader


def _reader(kind: Descriptor) -> Reader:
    missing = {"ts", "price"} - set(kind.fields_by_name)
    if missing:
        raise Unreadable(f"message {kind.full_name} has no field {' and '.join(sorted(missing))}, so it is no tick")
    # a field without presence is not on the wire when it is 0; of those that may be missing, it then is
    zero = {name: 0 for name in ("ts", "price") if not kind.fields_by_name[name].has_presence}
    # looked up once: asking a field for its name costs more than all else together
    names = {field: field.name for field in kind.fields}
    return partial(_read, message_factory.GetMessageClass(kind), names, zero)


def _read(
    kind: Callable[[], Message], names: Mapping[FieldDescriptor, str], zero: Mapping[str, object], value: bytes
) -> Tick:
    message = kind()
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise Unreadable(f"not Protobuf of its schema: {error}") from error
    fields = {**zero, **{names[field]: found for field, found in message.ListFields() if field in names}}
    ts = fields.get("ts")
    if isinstance(ts, Message) and ts.DESCRIPTOR.full_name == TIMESTAMP:
        fields["ts"] = ts.seconds * 1_000_000_000 + ts.nanos
    return to_tick(fields)


def tick_file() -> str:
    """tick.proto of docs/formats.md as `parse` wants it."""
    file = descriptor_pb2.FileDescriptorProto(name="tick.proto", syntax="proto3")
    message = file.message_type.add(name="Tick")
    for number, name in enumerate(FIELDS, 1):
        kind = KINDS.get(name, FIELD.TYPE_DOUBLE)
        optional = {"label": FIELD.LABEL_OPTIONAL, "proto3_optional": True, "oneof_index": number - 1}
        message.field.add(name=name, number=number, type=kind, **optional)
        message.oneof_decl.add(name=f"_{name}")
    return base64.b64encode(file.SerializeToString()).decode()


_TICK = parse(tick_file())((0,))
