"""Records become ticks to the bit, or dead letters with a reason that names the field; nothing else."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import Records
from service.ticks import MAX_MAGNITUDE, MAX_RECORD_BYTES, MAX_STREAM_LENGTH, NUMBERS, decode, encode, parse_ts
from tests.samples import random_ticks

GOOD = {"stream": "AAPL", "ts": 1_700_000_000_000_000_000, "price": 189.98}


def records(*values: bytes | None, key: bytes | None = None) -> Records:
    n = len(values)
    return Records(np.zeros(n, np.int32), np.arange(n, dtype=np.int64), [key] * n, list(values))


def as_json(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v != "absent"}).encode()


def test_the_documented_example_is_read() -> None:
    value = (
        b'{"stream":"AAPL","ts":1700000000000000000,"price":189.98,"size":100,"bid":189.97,"ask":189.99,"venue":"XNAS"}'
    )
    ticks, rejects = decode(records(value))
    assert rejects == []
    assert ticks.stream == ["AAPL"]
    assert (ticks.ts[0], ticks.price[0], ticks.size[0], ticks.bid[0], ticks.ask[0]) == (
        1_700_000_000_000_000_000, 189.98, 100.0, 189.97, 189.99,
    )  # fmt: skip
    assert np.isnan(ticks.bid_size[0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (None, "empty"),
        (b"not json", "not JSON"),
        (b'{"stream":"A","ts":1', "not JSON"),
        (b"[1,2]", "object"),
        (b'{"stream":"A","ts":1,"price":1},{"stream":"A","ts":2,"price":1}', "not JSON"),
        (as_json(price="absent"), "price"),
        (as_json(ts="absent"), "ts"),
        (as_json(price=None), "price"),
        (as_json(price="12"), "price"),
        (as_json(price=True), "price"),
        (as_json(size=[]), "size"),
        (as_json(stream=7), "stream"),
        (as_json(seq=1.5), "seq"),
        (as_json(seq=-1), "seq -1 is outside"),
        (as_json(seq=2**63), "seq"),
        (as_json(stream=""), "stream"),
        (as_json(stream="x" * (MAX_STREAM_LENGTH + 1)), "stream"),
        (as_json(stream="absent"), "stream"),
        (as_json(ts=-1), "ts"),
        (as_json(ts=2**63), "ts"),
        (as_json(ts=2**70), "ts"),
        (as_json(ts=1.5), "ts"),
        (as_json(ts="yesterday"), "ts"),
        (as_json(size=-5), "size"),
        (as_json(ask_size=-0.1), "ask_size"),
        (as_json(price=float("nan")), "not JSON"),
        (as_json().replace(b"189.98", b"1e999"), "price"),
        (as_json(bid=10 * MAX_MAGNITUDE), "bid"),
        (b'{"stream":"\xff","ts":1,"price":1}', ""),
        (b'{"stream":"A","ts":1,"price":1,"note":"' + b"x" * MAX_RECORD_BYTES + b'"}', "bytes"),
        (b"\x00" * 100, "not JSON"),
        (b"[" * 5000, ""),
    ],
)
def test_a_bad_record_is_a_dead_letter_with_its_reason_and_the_rest_is_read(value: bytes | None, reason: str) -> None:
    good = as_json()
    ticks, rejects = decode(records(good, value, good))
    assert ticks.offset.tolist() == [0, 2]
    (letter,) = rejects
    assert (letter.partition, letter.offset, letter.value) == (0, 1, value)
    assert reason in letter.reason


def test_the_key_stands_for_a_missing_stream_and_never_overrides_one() -> None:
    ticks, rejects = decode(records(as_json(stream="absent"), as_json(), key="MSFT·X".encode()))
    assert ticks.stream == ["MSFT·X", "AAPL"]
    assert rejects == []
    assert "UTF-8" in decode(records(as_json(stream="absent"), key=b"\xff"))[1][0].reason


@pytest.mark.parametrize("price", [0, -37.63, 1e-12, -0.0])
def test_zero_and_negative_prices_are_ordinary(price: float) -> None:
    ticks, rejects = decode(records(as_json(price=price, bid=price - 1, ask=price)))
    assert rejects == []
    assert ticks.price[0] == price


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000_000_000_000),
    ],
)
def test_iso_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert parse_ts(text) == nanoseconds
    assert decode(records(as_json(ts=text)))[0].ts[0] == nanoseconds


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1)))
def test_iso_times_agree_with_datetime(moment: datetime) -> None:
    whole = int(moment.replace(tzinfo=timezone.utc, microsecond=0).timestamp()) * 10**9
    assert parse_ts(moment.isoformat()) == whole + moment.microsecond * 1000


def test_encoding_and_decoding_gives_the_same_bits() -> None:
    ticks = random_ticks(500)
    back, rejects = decode(records(*encode(ticks)))
    assert rejects == []
    assert back.stream == ticks.stream
    for name in ("ts", *NUMBERS):
        assert np.array_equal(getattr(back, name), getattr(ticks, name), equal_nan=True)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(msgspec.json.encode)
)
def test_no_bytes_make_the_decoder_fail(value: bytes) -> None:
    ticks, rejects = decode(records(value, as_json()))
    assert len(ticks) + len(rejects) == 2
    assert ticks.offset[-1] == 1
