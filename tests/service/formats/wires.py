"""Every wire format as its producers write it: by itself, behind a schema's number, and with a header."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
import msgspec
import numpy as np
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from service.formats import avro, protobuf
from service.logs import Records
from service.ticks import NUMBERS

ID = 7
GUID = UUID("89791762-2336-4186-9674-299b90a802e2")
BY_ID = struct.pack(">bI", 0, ID)
BY_GUID = b"\1" + GUID.bytes
FIRST_MESSAGE = b"\0"
AVRO = fastavro.parse_schema(avro.TICK)
_POOL = DescriptorPool()
_POOL.AddSerializedFile(base64.b64decode(protobuf.tick_file()))
TickMessage: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("Tick"))

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Wire:
    """How a producer writes ticks, and the settings that the worker then needs."""

    name: str
    format: str
    write: Callable[[Fields], bytes]
    frame: bytes = b""
    header: bytes | None = None

    @property
    def framed(self) -> bool:
        """Whether the records name a schema."""
        return bool(self.frame or self.header)

    def records(self, *ticks: Fields | bytes | None, key: bytes | None = None) -> Records:
        """Ticks by their fields, and anything else as it is. A format without streams has them as keys."""
        n = len(ticks)
        keys, values = [], list[bytes | None]()
        for tick in ticks:
            own = self.name == "binary" and isinstance(tick, Mapping) and "stream" in tick
            keys.append(tick["stream"].encode() if own else key)  # type: ignore[call-overload,index]
            values.append(self.frame + self.write(tick) if isinstance(tick, Mapping) else tick)
        header: list[bytes | None] = [self.header] * n if self.header else []
        return Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), keys, values, header)


def write_avro(fields: Fields) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, AVRO, dict(fields))
    return out.getvalue()


def write_protobuf(fields: Fields) -> bytes:
    value: bytes = TickMessage(**fields).SerializeToString()
    return value


def write_binary(fields: Fields) -> bytes:
    numbers = [fields.get(name, math.nan) for name in NUMBERS]
    return struct.pack("<q6dq", fields["ts"], *numbers, fields.get("seq", -1))


WIRES = (
    Wire("json", "json", msgspec.json.encode),
    Wire("avro", "avro", write_avro),
    Wire("avro by id", "avro", write_avro, BY_ID),
    Wire("avro by guid", "avro", write_avro, BY_GUID),
    Wire("avro by header", "avro", write_avro, header=BY_GUID),
    Wire("avro by header with an id", "avro", write_avro, header=BY_ID),
    Wire("protobuf", "protobuf", write_protobuf),
    Wire("protobuf by id", "protobuf", write_protobuf, BY_ID + FIRST_MESSAGE),
    Wire("protobuf by id in full", "protobuf", write_protobuf, BY_ID + b"\2\0"),
    Wire("protobuf by header", "protobuf", write_protobuf, header=BY_GUID + FIRST_MESSAGE),
    Wire("binary", "binary", write_binary),
)
