"""What every wire format promises: ticks to the bit, or dead letters with a reason that names the field; nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.formats import decoder
from service.formats.registry import Registry
from service.ticks import MAX_MAGNITUDE, MAX_RECORD_BYTES, MAX_STREAM_LENGTH, MAX_TS, NO_SEQ, NUMBERS, Decode, Ticks
from tests.samples import random_ticks
from tests.service.formats.stub import Stub, knows_ticks
from tests.service.formats.wires import WIRES, Fields, Wire

GOOD = {"stream": "AAPL", "ts": 1_700_000_000_000_000_000, "price": 189.98}
every_wire = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


@pytest.fixture
def decode(wire: Wire, stub: Stub) -> Decode:
    """What the worker reads the wire with."""
    return decoder(wire.format, Registry(knows_ticks(stub, wire.format).url) if wire.framed else None)


def as_fields(ticks: Ticks) -> list[Fields]:
    """The ticks as producers give them: what is missing is left out."""
    rows: list[Fields] = []
    for i, name in enumerate(ticks.stream):
        numbers = {n: float(getattr(ticks, n)[i]) for n in NUMBERS}
        row: dict[str, Any] = {"stream": name, "ts": int(ticks.ts[i])}
        row |= {n: value for n, value in numbers.items() if not math.isnan(value)}
        rows.append(row | ({} if ticks.seq[i] == NO_SEQ else {"seq": int(ticks.seq[i])}))
    return rows


@every_wire
def test_a_tick_is_read_to_the_bit_with_what_is_missing_and_what_is_not(wire: Wire, decode: Decode) -> None:
    ticks = random_ticks(300)
    rng = np.random.default_rng(1)
    for name in NUMBERS[1:]:
        getattr(ticks, name)[rng.random(300) < 0.3] = math.nan
    ticks.price[:] += rng.random(300)  # all bits of a float, not just cents
    ticks.seq[100:] = np.arange(200)
    back, rejects = decode(wire.records(*as_fields(ticks)))
    assert rejects == []
    assert back.stream == ticks.stream
    for name in ("ts", "seq", *NUMBERS):
        assert getattr(back, name).dtype == getattr(ticks, name).dtype
        assert np.array_equal(getattr(back, name), getattr(ticks, name), equal_nan=name in NUMBERS)


@every_wire
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": math.nan}, "price"),
        ({"price": math.inf}, "price"),
        ({"bid": 10 * MAX_MAGNITUDE}, "bid"),
        ({"size": -5.0}, "size -5.0 is negative"),
        ({"ask_size": -0.1}, "ask_size -0.1 is negative"),
        ({"ts": -1}, "ts -1 is outside"),
        ({"ts": MAX_TS + 1}, "ts"),
        ({"seq": -2}, "seq -2 is outside"),
        ({"stream": ""}, "stream"),
        ({"stream": "x" * (MAX_STREAM_LENGTH + 1)}, "stream has 257 characters"),
        ({"stream": "absent"}, "stream is missing, in the record and as its key"),
    ],
)
def test_a_bad_tick_is_a_dead_letter_with_its_reason_and_the_rest_is_read(
    wire: Wire, decode: Decode, changes: dict[str, Any], reason: str
) -> None:
    fields = {name: value for name, value in (GOOD | changes).items() if value != "absent"}
    records = wire.records(GOOD, fields, GOOD)
    ticks, rejects = decode(records)
    assert ticks.offset.tolist() == [0, 2]
    assert ticks.price.tolist() == [189.98, 189.98]
    (letter,) = rejects
    assert (letter.partition, letter.offset, letter.value) == (0, 1, records.value[1])
    assert letter.schema == wire.header
    assert reason in letter.reason


@every_wire
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty record"),
        (b"", "empty record"),
        (b"\xff" * (MAX_RECORD_BYTES + 1), "the limit is"),
        (b"\xff" * 20, ""),
    ],
    ids=["none", "empty", "enormous", "foreign"],
)
def test_a_record_that_is_no_tick_is_a_dead_letter_and_the_rest_is_read(
    wire: Wire, decode: Decode, value: bytes | None, reason: str
) -> None:
    ticks, rejects = decode(wire.records(GOOD, value, GOOD))
    assert ticks.offset.tolist() == [0, 2]
    (letter,) = rejects
    assert (letter.offset, letter.value) == (1, value)
    assert reason in letter.reason
    assert letter.reason


@every_wire
def test_a_tick_cut_short_is_never_read_as_another(wire: Wire, decode: Decode) -> None:
    whole = wire.records(GOOD | {"seq": 3, "bid": 1.0, "ask": 2.0}, key=b"AAPL")
    (value,) = whole.value
    assert value
    for end in range(1, len(value)):
        found, rejects = decode(wire.records(value[:end], key=whole.key[0]))
        assert len(found) + len(rejects) == 1
        assert not len(found) or wire.format == "protobuf"  # whose messages may end after any field


@every_wire
def test_the_key_stands_for_a_missing_stream(wire: Wire, decode: Decode) -> None:
    unnamed = {name: value for name, value in GOOD.items() if name != "stream"}
    ticks, rejects = decode(wire.records(unnamed, GOOD, key="MSFT·X".encode()))
    assert ticks.stream == ["MSFT·X", "AAPL"]
    assert rejects == []
    assert "UTF-8" in decode(wire.records(unnamed, key=b"\xff"))[1][0].reason


@every_wire
@pytest.mark.parametrize("price", [0.0, -37.63, 1e-12, -0.0])
def test_zero_and_negative_prices_are_ordinary(wire: Wire, decode: Decode, price: float) -> None:
    ticks, rejects = decode(wire.records(GOOD | {"price": price, "bid": price - 1, "ask": price, "size": 0.0}))
    assert rejects == []
    assert (ticks.price[0], ticks.bid[0], ticks.ask[0], ticks.size[0]) == (price, price - 1, price, 0.0)


@every_wire
def test_an_empty_batch_is_no_ticks(wire: Wire, decode: Decode) -> None:
    ticks, rejects = decode(wire.records())
    assert (len(ticks), rejects) == (0, [])


@every_wire
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.binary(max_size=200), key=st.none() | st.binary(max_size=8))
def test_no_bytes_make_the_decoder_fail(wire: Wire, decode: Decode, value: bytes, key: bytes | None) -> None:
    ticks, rejects = decode(wire.records(wire.frame + value, GOOD, key=key))
    assert len(ticks) + len(rejects) == 2
    assert ticks.offset[-1] == 1
