"""Ticks in Avro, read with the schema they were written with: fields by name, as in JSON."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import fastavro
import msgspec
from fastavro.schema import SchemaParseException

from service.errors import TickwatchError
from service.formats.framing import Unreadable, decode_each, to_tick, unframe
from service.formats.registry import Registry, Schemas
from service.ticks import NUMBERS, Decode, Tick

TICK: Final = {
    "type": "record",
    "name": "Tick",
    "fields": [
        {"name": "ts", "type": "long"},
        {"name": "price", "type": "double"},
        {"name": "stream", "type": ["null", "string"], "default": None},
        *({"name": name, "type": ["null", "double"], "default": None} for name in NUMBERS[1:]),
        {"name": "seq", "type": ["null", "long"], "default": None},
    ],
}
NANOSECONDS: Final = {"timestamp-millis": 1_000_000, "timestamp-micros": 1000, "timestamp-nanos": 1}
# what fastavro raises for bytes that are not of the schema: it has no error of its own for them
MALFORMED = (EOFError, LookupError, ValueError, TypeError, ArithmeticError, RecursionError, struct.error)

Reader = Callable[[bytes], Tick]


def framed(registry: Registry) -> Decode:
    """See service.formats: what reads records that name their schema."""
    schemas = Schemas(registry, "AVRO", parse)

    def read(value: bytes, header: bytes | None) -> Tick:
        path, _, payload = unframe(value, header)
        return schemas.get(path)(payload)

    return partial(decode_each, read)


def bare(file: Path | None) -> Decode:
    """See service.formats: what reads records of the schema in a file, or of TICK, with nothing before them."""
    try:
        reader = parse(msgspec.json.encode(TICK).decode() if file is None else file.read_text())
    except (OSError, UnicodeDecodeError, Unreadable) as error:
        raise TickwatchError(f"--schema {file}: {error}") from error
    return partial(decode_each, lambda value, _: reader(value))


def parse(text: str) -> Reader:
    """What reads the records of a schema. Raises Unreadable."""
    try:
        schema = msgspec.json.decode(text)
        fields = {field["name"]: field for field in schema["fields"]} if schema["type"] == "record" else {}
        unit = _plain_ts(fields.get("ts", {}))
        parsed = fastavro.parse_schema(schema)
    except (msgspec.DecodeError, SchemaParseException, *MALFORMED) as error:
        raise Unreadable(f"not an Avro schema of a record: {error}") from error
    missing = {"ts", "price"} - fields.keys()
    if missing:
        raise Unreadable(f"an Avro schema without {' and '.join(sorted(missing))} is not one of ticks")
    return partial(_read, parsed, unit)


def _plain_ts(field: dict[str, Any]) -> int:
    """Takes the logical type away from `ts`, for a datetime has no nanoseconds; returns how many are in its unit."""
    kinds = field.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if isinstance(kind, dict) and kind.get("logicalType") in NANOSECONDS:
            return NANOSECONDS[kind.pop("logicalType")]
    return 1


def _read(schema: Any, unit: int, value: bytes) -> Tick:
    data = BytesIO(value)
    try:
        fields: Any = fastavro.schemaless_reader(data, schema, None)  # a record, for its schema is one
    except MALFORMED as error:
        raise Unreadable(f"not Avro of its schema: {error or type(error).__name__}") from error
    if data.tell() < len(value):
        raise Unreadable(f"not Avro of its schema: {len(value) - data.tell()} bytes are left over")
    tick = to_tick(fields)
    if isinstance(tick.ts, int):
        tick.ts *= unit
    return tick
