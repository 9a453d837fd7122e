"""Tick files are read row by row whatever a row holds, and a file that is none is named with the remedy."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import TickwatchError
from service.files import FileChunk, count_ticks, not_read, read_ticks, tick_files
from service.logs import DeadLetter, Records
from service.ticks import NO_SEQ, NUMBERS, Ticks, decode, encode

T = 1_700_000_000_000_000_000
Row = dict[str, Any]

_size = st.none() | st.floats(0, 1e15)
_price = st.floats(-1e15, 1e15)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "stream": st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8),
            "ts": st.integers(0, 10**8)
            | st.integers(10**16, 2**62),  # between them lie our days in seconds to microseconds
            "price": _price,
            "seq": st.none() | st.integers(0, 2**63 - 1),
            **{n: st.none() | _price for n in ("bid", "ask")},
            **dict.fromkeys(("size", "bid_size", "ask_size"), _size),
        }
    ),
    min_size=1,
    max_size=20,
)


def write_parquet(path: Path, rows: list[Row], types: dict[str, pa.DataType] | None = None) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {n: pa.array([row.get(n) for row in rows], (types or {}).get(n)) for n in names}
    pq.write_table(pa.table(arrays), path, row_group_size=7)
    return path


def write_csv(path: Path, rows: list[Row]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text

    lines = [",".join(names), *(",".join(cell(row.get(n)) for n in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


def write_json(path: Path, rows: list[Row]) -> Path:
    lines = [json.dumps({name: value for name, value in row.items() if value is not None}) for row in rows]
    lines = [re.sub(r"(?<=: )(-?)Infinity", r"\g<1>1e999", line) for line in lines]  # JSON has no infinity
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "parquet": write_parquet,
    "csv": write_csv,
    "jsonl": write_json,
}
every_format = pytest.mark.parametrize("suffix", WRITERS)


def read(path: Path, start: int = 0) -> FileChunk:
    (chunk,) = read_ticks(path, start)
    return chunk


def reasons(chunk: FileChunk) -> dict[int, str]:
    return {reject.offset: reject.reason for reject in chunk.rejects}


def decode_again(values: list[bytes | None], keys: list[bytes | None]) -> tuple[Ticks, list[DeadLetter]]:
    n = len(values)
    return decode(Records(np.zeros(n, np.int32), np.arange(n), keys, values))


def assert_same(a: Ticks, b: Ticks) -> None:
    assert a.stream == b.stream
    for name in ("offset", "ts", "seq", *NUMBERS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@every_format
@given(rows=ROWS)
def test_a_row_comes_out_with_the_bits_that_went_in(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Row]
) -> None:
    path = WRITERS[suffix](tmp_path_factory.mktemp("bits") / f"x.{suffix}", rows)
    chunk = read(path)
    assert not chunk.rejects
    assert chunk.ticks.stream == [row["stream"] for row in rows]
    assert chunk.ticks.ts.tolist() == [row["ts"] for row in rows]
    for name in NUMBERS:
        expected = np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=np.float64)
        np.testing.assert_array_equal(getattr(chunk.ticks, name), expected)
    ticks, rejects = decode_again([*encode(chunk.ticks)], [None] * len(rows))
    assert not rejects
    assert_same(ticks, chunk.ticks)


@every_format
def test_rows_come_in_input_order_in_chunks_and_from_any_start(tmp_path: Path, suffix: str) -> None:
    rows = [{"ts": T + (i * 7919) % 100, "price": float(i)} for i in range(100)]
    path = WRITERS[suffix](tmp_path / f"IBM.{suffix}", rows)
    for start in (0, 1, 6, 7, 50, 99, 100):
        chunks = list(read_ticks(path, start, rows=13))
        assert [x for c in chunks for x in c.ticks.price.tolist()] == [float(i) for i in range(start, 100)]
        assert [x for c in chunks for x in c.ticks.offset.tolist()] == list(range(start, 100))
        assert all(len(c.ticks) <= 13 for c in chunks)
    assert count_ticks([path, path]) == 200


@every_format
def test_sequence_numbers_are_read_and_may_be_missing(tmp_path: Path, suffix: str) -> None:
    rows: list[Row] = [{"ts": T, "price": 1.0, "seq": 2**62}, {"ts": T, "price": 2.0, "seq": None}]
    assert read(WRITERS[suffix](tmp_path / f"x.{suffix}", rows)).ticks.seq.tolist() == [2**62, NO_SEQ]
    assert read(WRITERS[suffix](tmp_path / f"y.{suffix}", [{"ts": T, "price": 1.0}])).ticks.seq.tolist() == [NO_SEQ]


@every_format
def test_a_file_without_streams_is_one_stream_named_after_it(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"BRK.B.{suffix}", [{"ts": T, "price": 1.0}, {"ts": T, "price": 2.0}])
    assert read(path).ticks.stream == ["BRK.B", "BRK.B"]
    named = WRITERS[suffix](
        tmp_path / f"rest.{suffix}", [{"ts": T, "price": 1.0, "stream": "A"}, {"ts": T, "price": 2.0}]
    )
    assert read(named).ticks.stream == ["A", "rest"]


BAD: dict[str, tuple[Row, str]] = {
    "no price": ({"price": None}, "price"),
    "infinite price": ({"price": float("inf")}, "price"),
    "huge price": ({"price": 1e16}, "price 1e+16 is beyond 1e+15"),
    "negative size": ({"size": -1.0}, "size -1.0 is negative"),
    "negative infinite bid": ({"bid": float("-inf")}, "bid"),
    "no time": ({"ts": None}, "ts"),
    "time before 1970": ({"ts": -5}, "ts"),
    "time too late": ({"ts": 2**63 - 1}, "ts 9223372036854775807 is outside"),
    "negative sequence number": ({"seq": -3}, "seq -3 is outside"),
    "long name": ({"stream": "x" * 257}, "stream has 257 characters"),
}


@pytest.mark.parametrize("case", BAD)
@every_format
def test_a_bad_row_is_rejected_alone_and_its_record_says_why_again(tmp_path: Path, suffix: str, case: str) -> None:
    good: Row = {"stream": "A", "ts": T, "price": 1.0, "size": 2.0, "bid": 3.0}
    change, why = BAD[case]
    path = WRITERS[suffix](tmp_path / f"x.{suffix}", [good, good | change, good])
    chunk = read(path)
    assert chunk.ticks.offset.tolist() == [0, 2]
    (reject,) = chunk.rejects
    assert (reject.partition, reject.offset) == (0, 1)
    assert why in reject.reason
    ticks, again = decode_again([reject.value], [reject.key])
    assert (len(ticks), [r.reason for r in again]) == (0, [reject.reason])


def test_a_bad_cell_of_a_csv_file_rejects_its_row_only(tmp_path: Path) -> None:
    lines = [
        b'"ts", price ,size,stream,kind',
        b"1,1.5,2,A,0",
        b"1,abc,2,A,0",
        b"noon,1,2,A,0",
        b"1,1,1_000,A,0",
        b"1,1,2",
        b"1,1,2,A,0,9",
        b"1,1,2,\xff,0",
        b'1,1,2,"A,B",0',
        b'1,1,2,"A,0',
        b"",
        b" 1 , 1 ,, A ,",
        b"1,1," + b"2" * 70_000 + b",A,0",
        b"1," + b"x" * 70_000 + b",2,A,0",
        b"2013-10-07T09:30:00.000000001Z,1,nan,A,0\r",
    ]
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    chunk = read(path)
    assert chunk.ticks.offset.tolist() == [0, 7, 9, 12]
    assert chunk.ticks.stream == ["A", "A,B", "A", "A"]
    assert chunk.ticks.ts.tolist() == [1, 1, 1, 1_381_138_200_000_000_001]
    assert np.isnan(chunk.ticks.size).tolist() == [False, False, True, True]
    assert count_ticks([path]) == 13
    found = reasons(chunk)
    assert "invalid start byte" in found.pop(6)
    assert found == {
        1: "price: Expected `float`, got `str`",
        2: "ts: Invalid isoformat string: 'noon'",
        3: "size: Expected `float | null`, got `str`",
        4: "Expected `object`, got `array`",
        5: "Expected `object`, got `array`",
        8: "Expected `object`, got `array`",
        10: "size: Number out of range",
        11: "record has 70043 bytes, the limit is 65536",
    }
    assert [r.value for r in chunk.rejects[:1]] == [b'{"stream":"A","ts":1,"price":"abc","size":2.0}']
    again = decode_again([r.value for r in chunk.rejects], [r.key for r in chunk.rejects])[1]
    assert [r.reason for r in again] == [r.reason for r in chunk.rejects]


def test_a_bad_line_of_a_json_file_is_kept_as_it_was(tmp_path: Path) -> None:
    lines = [b'{"ts":1,"price":2}', b'{"ts":1,"price":"2"} ', b"", b"{", b'{"ts":"2024-08-08T00:00:00Z","price":1}']
    path = tmp_path / "A.ndjson.gz"
    path.write_bytes(gzip.compress(b"\r\n".join(lines)))
    chunk = read(path)
    assert chunk.ticks.stream == ["A", "A"]
    assert [(r.offset, r.key, r.value) for r in chunk.rejects] == [(1, b"A", lines[1]), (2, b"A", b"{")]
    assert count_ticks([path]) == 4


@given(cells=st.lists(st.sampled_from(["", "1", "-2.5e3", " 7", "0x1F", "1_0", "nan", "inf", "x"]), min_size=1))
def test_a_cell_is_read_alike_whatever_stands_in_the_other_rows(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    together = read(write_csv(folder / "x.csv", [{"ts": 1, "price": 1, "bid": cell} for cell in cells]))
    alone = [read(write_csv(folder / "x.csv", [{"ts": 1, "price": 1, "bid": cell}])) for cell in cells]
    assert together.ticks.bid.tobytes() == b"".join(chunk.ticks.bid.tobytes() for chunk in alone)
    assert reasons(together) == {i: r.reason for i, chunk in enumerate(alone) for r in chunk.rejects}


MOMENT = datetime(2024, 8, 8, 1, 2, 3, 4000, tzinfo=timezone.utc)
NS = 1_723_078_923_004_000_000


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.int64(), NS, NS),
        (pa.uint64(), NS, NS),
        (pa.timestamp("s"), MOMENT.replace(microsecond=0), NS - 4_000_000),
        (pa.timestamp("ms", "America/New_York"), MOMENT, NS),
        (pa.timestamp("us"), MOMENT, NS),
        (pa.timestamp("ns", "UTC"), MOMENT, NS),
        (pa.string(), "2024-08-08T01:02:03.004Z", NS),
        (pa.large_string(), "2024-08-08T03:02:03.004+02:00", NS),
        (pa.dictionary(pa.int8(), pa.string()), str(NS), NS),
    ],
)
def test_parquet_times_of_every_type_are_nanoseconds(
    tmp_path: Path, kind: pa.DataType, value: object, expected: int
) -> None:
    rows: list[Row] = [{"ts": value, "price": 1.0}, {"ts": None, "price": 1.0}]
    chunk = read(write_parquet(tmp_path / "x.parquet", rows, {"ts": kind}))
    assert chunk.ticks.ts.tolist() == [expected]
    assert reasons(chunk) == {1: "ts is missing"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.float32(), 2.5),
        (pa.float16(), 2.5),
        (pa.decimal128(9, 2), Decimal("2.5")),
        (pa.string(), "2.5"),
        (pa.dictionary(pa.int32(), pa.float64()), 2.5),
    ],
)
def test_parquet_numbers_of_every_type_are_read(tmp_path: Path, kind: pa.DataType, value: object) -> None:
    rows: list[Row] = [{"ts": T, "price": value, "bid": None}, {"ts": T, "price": value, "bid": value}]
    ticks = read(write_parquet(tmp_path / "x.parquet", rows, {"price": kind, "bid": kind})).ticks
    assert ticks.price.tolist() == [2.5, 2.5]
    assert np.isnan(ticks.bid[0])
    assert ticks.bid[1] == 2.5


def test_decimals_become_the_nearest_float(tmp_path: Path) -> None:
    prices = [Decimal(cents).scaleb(-4) for cents in range(1_899_000, 1_909_000, 7)]
    rows: list[Row] = [{"ts": T, "price": price} for price in prices]
    ticks = read(write_parquet(tmp_path / "x.parquet", rows, {"price": pa.decimal128(18, 4)})).ticks
    assert ticks.price.tolist() == [float(price) for price in prices]


@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", "1,000,000,000"), ("milliseconds", "1,000,000"), ("microseconds", "1,000")]
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_times_in_another_unit_than_nanoseconds_are_told_with_the_factor(
    tmp_path: Path, suffix: str, unit: str, factor: str
) -> None:
    ts = [(NS + i * 10**9) // int(factor.replace(",", "")) for i in range(3)]
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"ts": ts, "price": [1.0] * 3}), path)
    else:
        path.write_text("".join(f'{{"ts": {t}, "price": 1}}\n' for t in ts))
    with pytest.raises(TickwatchError, match=rf"x{suffix}: ts {ts[0]} .* looks like {unit}.* multiply by {factor}"):
        list(read_ticks(path))


def test_columns_that_no_tick_has_are_known(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ts": [1], "price": [1.0], "symbol": ["A"], "kind": [0]}), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("bidsize,ts,price,,seq\n")
    (tmp_path / "x.jsonl").write_text('{"venue": 1}\n')
    found = [not_read(tmp_path / f"x.{kind}") for kind in ("parquet", "csv", "jsonl")]
    assert found == [["symbol", "kind"], ["bidsize"], []]
    (tmp_path / "y.parquet").write_bytes(b"junk")
    with pytest.raises(TickwatchError, match="is the file complete"):
        not_read(tmp_path / "y.parquet")


def test_a_name_that_is_not_utf8_rejects_its_row_of_a_parquet_file(tmp_path: Path) -> None:
    names = pa.array([b"A", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"ts": [1, 2, 3], "price": [1.0] * 3, "stream": names}), tmp_path / "x.parquet")
    chunk = read(tmp_path / "x.parquet")
    assert chunk.ticks.stream == ["A", "x"]
    assert [r.offset for r in chunk.rejects] == [1]
    assert "invalid start byte" in chunk.rejects[0].reason


def test_a_folder_gives_its_tick_files_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.PARQUET", "c.jsonl.gz", "notes.txt", ".hidden.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in tick_files(tmp_path)] == ["a.PARQUET", "b.csv", "c.jsonl.gz"]
    assert tick_files(tmp_path / "b.csv") == [tmp_path / "b.csv"]


def test_paths_without_tick_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "ticks.xlsx").touch()
    for path, words in (
        (tmp_path, "holds no tick file; the names of tick files end with .parquet, .csv"),
        (tmp_path / "no.csv", "does not exist; give a tick file or a folder"),
        (tmp_path / "ticks.xlsx", "is no tick file by its name, which must end with one of .parquet"),
    ):
        with pytest.raises(TickwatchError, match=words) as error:
            tick_files(path)
        assert str(path) in str(error.value)


FOREIGN: dict[str, tuple[str, bytes, str]] = {
    "empty csv": ("x.csv", b"", "holds no ticks"),
    "header only": ("x.csv", b"ts,price\n", "holds no ticks"),
    "no header": ("x.csv", b"1700000000,1.5\n", "no column 'ts', only '1700000000', '1.5'; rename"),
    "no price": ("x.csv", b"ts,px\n1,2\n", "no column 'price', only 'ts', 'px'"),
    "two prices": ("x.csv", b"ts,price,price\n1,2,3\n", "more than one column 'price'"),
    "empty json lines": ("x.jsonl", b"\n\n", "holds no ticks"),
    "json array": ("x.jsonl", b'[\n["ts", 1]\n]\n', "no JSON object in the first 3 lines, which start with b'\\['"),
    "empty parquet": ("x.parquet", b"", "can't be read as .parquet"),
    "foreign parquet": ("x.parquet", b"PK\x03\x04" * 100, "can't be read as .parquet"),
    "plain gzip": ("x.csv.gz", b"ts,price\n1,2\n", "can't be read as .csv.gz"),
    "cut gzip": ("x.jsonl.gz", gzip.compress(b'{"ts":1,"price":1}\n' * 9)[:-12], "can't be read as .jsonl.gz"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_that_holds_no_ticks_is_named_with_what_was_found(tmp_path: Path, case: str) -> None:
    name, content, words = FOREIGN[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TickwatchError, match=words) as error:
        list(read_ticks(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("column", "kind", "value", "words"),
    [
        ("ts", pa.float64(), 1.0, "column 'ts' holds double; it must hold integer nanoseconds"),
        ("ts", pa.date32(), MOMENT.date(), "column 'ts' holds date32"),
        ("price", pa.bool_(), True, "column 'price' holds bool; it must hold numbers"),
        ("bid", pa.list_(pa.float64()), [1.0], "column 'bid' holds list"),
        ("stream", pa.int64(), 7, "column 'stream' holds int64; it must hold text"),
    ],
)
def test_a_column_of_the_wrong_type_is_named(
    tmp_path: Path, column: str, kind: pa.DataType, value: object, words: str
) -> None:
    row: Row = {"ts": T, "price": 1.0, column: value}
    with pytest.raises(TickwatchError, match=words):
        read(write_parquet(tmp_path / "x.parquet", [row], {column: kind}))


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [{"ts": T, "price": 1.0}] * 1000)
    path.write_bytes(path.read_bytes()[:-100])
    for use in (lambda: list(read_ticks(path)), lambda: count_ticks([path])):
        with pytest.raises(TickwatchError, match="is the file complete"):
            use()
