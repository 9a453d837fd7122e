"""Ticks of other people's Avro schemas: fields by name, whatever their order, width and logical type."""

from __future__ import annotations

import json
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from service.errors import TickwatchError
from service.formats import avro, decoder
from service.logs import Records
from service.ticks import Ticks
from tests.samples import ROOT

LONG = "long"


def read(tmp_path: Path, fields: dict[str, Any], tick: dict[str, Any]) -> Ticks:
    schema = {"type": "record", "name": "Quote", "fields": [{"name": n, "type": t} for n, t in fields.items()]}
    file = tmp_path / "quote.avsc"
    file.write_text(json.dumps(schema))
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), tick)
    ticks, rejects = decoder("avro", schema=file)(
        Records(np.zeros(1, np.int32), np.arange(1), [b"K"], [out.getvalue()])
    )
    assert rejects == []
    return ticks


def test_fields_are_found_by_name_and_unknown_ones_are_ignored(tmp_path: Path) -> None:
    fields = {"venue": "string", "price": "float", "size": ["int", "null"], "bid": ["null", LONG], "ts": LONG}
    ticks = read(tmp_path, fields, {"venue": "X", "price": 1.5, "size": 100, "bid": 1, "ts": 9})
    assert (ticks.stream, ticks.ts[0], ticks.price[0], ticks.size[0], ticks.bid[0]) == (["K"], 9, 1.5, 100, 1)


def test_prices_may_be_decimals(tmp_path: Path) -> None:
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 4}
    assert read(tmp_path, {"ts": LONG, "price": decimal}, {"ts": 1, "price": Decimal("189.9801")}).price[0] == 189.9801


@pytest.mark.parametrize(("unit", "nanoseconds"), [("millis", 10**6), ("micros", 10**3), ("nanos", 1)])
@pytest.mark.parametrize("optional", [False, True])
def test_times_keep_every_nanosecond_of_their_unit(tmp_path: Path, unit: str, nanoseconds: int, optional: bool) -> None:
    kind: Any = {"type": LONG, "logicalType": f"timestamp-{unit}"}
    at = 1_700_000_000_123_456_789 // nanoseconds
    ticks = read(tmp_path, {"ts": ["null", kind] if optional else kind, "price": "double"}, {"ts": at, "price": 1.0})
    assert ticks.ts[0] == at * nanoseconds


def test_times_may_be_text(tmp_path: Path) -> None:
    ticks = read(tmp_path, {"ts": "string", "price": "double"}, {"ts": "2023-11-14T22:13:20Z", "price": 1.0})
    assert ticks.ts[0] == 1_700_000_000_000_000_000


def test_bytes_left_over_show_another_schema() -> None:
    value = fastavro_tick() + b"\0"
    (letter,) = decoder("avro")(Records(np.zeros(1, np.int32), np.arange(1), [b"K"], [value]))[1]
    assert letter.reason == "not Avro of its schema: 1 bytes are left over"


def fastavro_tick() -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(avro.TICK), {"ts": 1, "price": 2.0})
    return out.getvalue()


def test_a_schema_file_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    for file in (tmp_path / "none.avsc", ROOT / "README.md"):
        with pytest.raises(TickwatchError, match=f"--schema {file}"):
            decoder("avro", schema=file)
    with pytest.raises(TickwatchError, match="--schema is for --format avro"):
        decoder("json", schema=tmp_path)
