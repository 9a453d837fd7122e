"""Arrow IPC streams from strangers: only flat columns, never more rows than allowed, and no compression to unpack."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
from flatbuffers.table import Table

from service.errors import TickwatchError
from service.ticks import NUMBERS

WANTED = ("stream", "ts", *NUMBERS, "seq")
_TEXT = (pa.types.is_string, pa.types.is_large_string)
_NUMBER = (pa.types.is_integer, pa.types.is_floating)
ALLOWED = {
    "stream": _TEXT,
    "ts": (pa.types.is_integer, pa.types.is_timestamp, *_TEXT),
    "seq": (pa.types.is_integer,),
    **dict.fromkeys(NUMBERS, _NUMBER),
}

# what arrow and the walk through its metadata raise at bytes that are no stream
BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, struct.error)


def read_arrow(body: bytes, most: int) -> tuple[pa.Table, str | None]:
    """(the wanted columns of at most `most` rows, the state in the schema's metadata). Raises TickwatchError or BROKEN."""
    _refuse_compression(body)
    with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
        schema = reader.schema
        names = _wanted(schema)
        batches, rows = [], 0
        for batch in reader:
            rows += batch.num_rows  # known before any buffer is looked at
            if rows > most:
                raise TickwatchError(f"holds more than {most} rows")
            part = batch.select(names)
            part.validate(full=True)
            batches.append(part)
    state = (schema.metadata or {}).get(b"state")
    table = pa.Table.from_batches(batches, pa.schema([schema.field(n) for n in names]))
    return table, None if state is None else state.decode("ascii", "replace")


def _wanted(schema: pa.Schema) -> list[str]:
    for name in ("ts", "price"):
        if name not in schema.names:
            raise TickwatchError(f"there is no column {name!r}")
    for field in schema:
        if (
            pa.types.is_nested(field.type)
            or pa.types.is_dictionary(field.type)
            or isinstance(field.type, pa.ExtensionType)
        ):
            raise TickwatchError(f"column {field.name!r} holds {field.type}; only flat columns are read")
    names = [name for name in WANTED if name in schema.names]
    for name in names:
        kind = schema.field(name).type if schema.names.count(name) == 1 else None
        if kind is None or not any(allowed(kind) for allowed in ALLOWED[name]):
            raise TickwatchError(f"column {name!r} holds {kind or 'more than one column'}, which is not read")
    return names


def _refuse_compression(body: bytes) -> None:
    """A compressed buffer says itself how much memory to take for it; see Message.fbs and Schema.fbs of Apache Arrow."""
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        metadata: Any = message.metadata.to_pybytes()  # arrow has verified the flatbuffer
        root = Table(metadata, int.from_bytes(metadata[:4], "little"))
        at = root.Offset(8)
        if message.type == "record batch" and at:
            batch = Table(metadata, root.Indirect(root.Pos + at))
            if batch.Offset(10):
                raise TickwatchError("its buffers are compressed; send them plain, or gzip the body")
        elif message.type == "dictionary":
            raise TickwatchError("holds dictionaries; only flat columns are read")
