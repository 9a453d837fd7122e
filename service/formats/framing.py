"""Records that are read one by one, and how each may say which schema it was written with.

The framing is Confluent's ("Wire format" in the documentation of its serializers): 0 and the schema's number in 4 bytes, or 1
and its GUID in 16, before the value; or the same in the header __value_schema_id, and nothing before the value.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

import msgspec

from service.logs import SCHEMA_HEADER, DeadLetter, Records
from service.ticks import Tick, Ticks, collect, explain, unfit


class Unreadable(Exception):
    """A record, or the schema that it names, of which no tick can be made, and why."""


def decode_each(read: Callable[[bytes, bytes | None], Tick], records: Records) -> tuple[Ticks, list[DeadLetter]]:
    """Ticks and dead letters, where `read` makes a tick of a record's value and header SCHEMA_HEADER or raises Unreadable."""

    def attempt(value: bytes | None, header: bytes | None) -> Tick | str:
        if reason := unfit(value):
            return reason
        try:
            return read(value or b"", header)
        except Unreadable as unreadable:
            return str(unreadable)

    headers = records.schema or [None] * len(records)
    return collect(records, list(map(attempt, records.value, headers)))


def to_tick(fields: Mapping[str, object]) -> Tick:
    """The tick with these fields, under the same rules as JSON: unknown ones are ignored. Raises Unreadable."""
    try:
        return msgspec.convert(fields, Tick)
    except msgspec.ValidationError as error:
        raise Unreadable(explain(error)) from error


def unframe(value: bytes, header: bytes | None) -> tuple[str, bytes, bytes]:
    """(path of the schema in its registry, what stands behind that in the frame, what is left of the value)."""
    frame = value if header is None else header
    if frame[:1] == b"\0" and len(frame) >= 5:
        path, rest = f"ids/{int.from_bytes(frame[1:5], 'big')}", frame[5:]
    elif frame[:1] == b"\1" and len(frame) >= 17:
        path, rest = f"guids/{uuid.UUID(bytes=frame[1:17])}", frame[17:]
    else:
        where = "record" if header is None else f"header {SCHEMA_HEADER}"
        raise Unreadable(f"{where} does not begin with 0 and a schema's number, nor with 1 and its GUID")
    return path, rest, rest if header is None else value
