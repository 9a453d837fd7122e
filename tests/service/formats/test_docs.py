"""What docs/formats.md tells producers is what the worker reads."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from service.formats import avro, binary, protobuf
from tests.samples import ROOT, random_ticks

DOCS = (ROOT / "docs" / "formats.md").read_text()


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)
    return str(text)


def test_the_avro_schema_is_the_one_that_is_read() -> None:
    assert msgspec.json.decode(block("json")) == avro.TICK


def test_the_protobuf_message_is_the_one_that_is_read() -> None:
    file = FileDescriptorProto.FromString(base64.b64decode(protobuf.tick_file()))
    (message,) = file.message_type
    assert f'syntax = "{file.syntax}"' in block("proto")
    assert f"message {message.name} {{" in block("proto")
    kinds = {f.name: FieldDescriptorProto.Type.Name(f.type).removeprefix("TYPE_").lower() for f in message.field}
    expected = [("optional" if f.proto3_optional else "", kinds[f.name], f.name, str(f.number)) for f in message.field]
    assert re.findall(r"(optional) (\w+) (\w+) = (\d+);", block("proto")) == expected


def test_the_binary_layout_is_the_one_that_is_read() -> None:
    names = re.findall(r"^\| (\d+)-(\d+) \| `(\w+)` \| (int64|float64)", DOCS, re.MULTILINE)
    layout: Mapping[str, Any] = binary.TICK.fields or {}
    assert [name for _, _, name, _ in names] == list(layout)
    for first, last, name, kind in names:
        dtype, offset, *_ = layout[name]
        assert (int(first), int(last) + 1) == (offset, offset + dtype.itemsize)
        assert dtype == np.dtype(kind).newbyteorder("<")
    ticks = random_ticks(3)
    fields = ("ts", "price", "size", "bid", "ask", "bid_size", "ask_size", "seq")
    assert f'struct.pack("<q6dq", {", ".join(fields)})' in DOCS
    rows = zip(*(getattr(ticks, name).tolist() for name in fields), strict=True)
    assert binary.encode(ticks) == [struct.pack("<q6dq", *row) for row in rows]
