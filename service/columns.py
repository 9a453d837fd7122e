"""Arrow columns, as a file holds them, into ticks; a row that can't be read becomes the JSON that says so."""

from __future__ import annotations

import json
import math
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.logs import DeadLetter, Records
from service.ticks import MAX_SEQ, MAX_STREAM_LENGTH, MAX_TS, NO_SEQ, NUMBERS, Ticks, decode, parse_ts, problems

Cell = bytes | str | int | float | None  # bytes are text that may not be UTF-8

_NANOSECONDS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}


def to_ticks(
    columns: dict[str, pa.Array], offset: NDArray[np.int64], default_stream: str
) -> tuple[Ticks, list[DeadLetter]]:
    """Ticks of the rows that can be read, in order, and a dead letter for each of the others.

    `columns` are arrays of N rows by name, with at least `ts` and `price`; `offset` is int64 [N]. Rows are checked in
    bulk; a bad one is written as a JSON record and `decode` says what is wrong with it, so that rules and words are the
    same for files and logs. Raises TickwatchError when the type of a whole column is wrong.
    """
    columns = {n: c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for n, c in columns.items()}
    odd: dict[str, dict[int, Cell]] = {}  # cells that stand for no value of their column, by row
    ts, odd["ts"] = _instants(columns["ts"])
    stream, odd["stream"] = _streams(columns.get("stream", pa.nulls(len(offset))), default_stream)
    numbers: dict[str, NDArray[np.float64]] = {}
    for name in NUMBERS:
        numbers[name], odd[name] = _floats(name, columns.get(name, pa.nulls(len(offset))))
    seq, odd["seq"] = _sequence(columns.get("seq", pa.nulls(len(offset))))
    ticks = Ticks(partition=np.zeros(len(offset), np.int32), offset=offset, stream=stream, ts=ts, seq=seq, **numbers)
    bad = sorted(problems(numbers).keys() | {i for cells in odd.values() for i in cells})
    if not bad:
        return ticks, []
    values: list[bytes | None] = []
    for i in bad:
        row: dict[str, Cell] = {"stream": stream[i], "ts": int(ts[i])}
        row |= {} if seq[i] == NO_SEQ else {"seq": int(seq[i])}
        row |= {name: None if math.isnan(column[i]) else float(column[i]) for name, column in numbers.items()}
        row |= {name: cells[i] for name, cells in odd.items() if i in cells}
        values.append(msgspec.json.encode({n: msgspec.Raw(to_json(c)) for n, c in row.items() if c is not None}))
    good = np.delete(np.arange(len(offset)), bad)
    return ticks.take(good), decode(as_records(offset[bad], values))[1]


def as_records(offset: NDArray[np.int64], values: list[bytes | None], key: bytes | None = None) -> Records:
    """Records of partition 0 at those offsets, all with the same key."""
    return Records(np.zeros(len(values), np.int32), offset, [key] * len(values), values)


def to_json(cell: Cell) -> bytes:
    """A cell as JSON that shows what was there: bytes that are not UTF-8 stay as they are."""
    if isinstance(cell, float) and math.isinf(cell):
        return b"1e999" if cell > 0 else b"-1e999"  # JSON has no infinity
    text = cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _wrong_type(name: str, column: pa.Array, expected: str) -> TickwatchError:
    return TickwatchError(f"column {name!r} holds {column.type}; it must hold {expected}: convert or rename it")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _texts(column: pa.Array) -> pa.Array:
    """Trimmed texts, null where nothing is left."""
    texts = pc.ascii_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), None, texts)


def _bytes(texts: pa.Array) -> list[bytes | None]:
    found: list[bytes | None] = texts.view(pa.binary()).to_pylist()
    return found


def _streams(column: pa.Array, default: str) -> tuple[list[str], dict[int, Cell]]:
    """Names of N streams, and the texts that can't be one."""
    if pa.types.is_null(column.type):
        return [default] * len(column), {}
    if not _is_text(column.type):
        raise _wrong_type("stream", column, "text")
    coded = _texts(column).dictionary_encode()
    texts = _bytes(coded.dictionary)
    names = [(text or b"").decode("utf-8", "replace") for text in texts]
    wrong = [c for c, name in enumerate(names) if len(name) > MAX_STREAM_LENGTH or name.encode() != texts[c]]
    codes = coded.indices.fill_null(len(names)).to_numpy()
    odd: dict[int, Cell] = {i: texts[codes[i]] for i in np.flatnonzero(np.isin(codes, wrong)).tolist()}
    return np.array([*names, default], dtype=np.object_)[codes].tolist(), odd


def _instants(column: pa.Array) -> tuple[NDArray[np.int64], dict[int, Cell]]:
    """Nanoseconds since 1970, int64 [N], and the cells that are no time after it."""
    if _is_text(column.type):
        return _parse_instants(_bytes(_texts(column)))
    unit = 1
    if pa.types.is_timestamp(column.type):
        unit = _NANOSECONDS[column.type.unit]
        column = column.view(pa.int64())
    if not pa.types.is_integer(column.type):
        raise _wrong_type("ts", column, "integer nanoseconds since 1970, timestamps or ISO 8601 text")
    missing = column.is_null().to_numpy(zero_copy_only=False)
    raw = column.fill_null(0).to_numpy()
    wrong = missing | (raw < 0) | (raw > MAX_TS // unit)
    odd: dict[int, Cell] = {i: None if missing[i] else int(raw[i]) * unit for i in np.flatnonzero(wrong).tolist()}
    return np.where(wrong, 0, raw).astype(np.int64) * unit, odd


def _parse_instants(texts: list[bytes | None]) -> tuple[NDArray[np.int64], dict[int, Cell]]:
    ts = np.zeros(len(texts), np.int64)
    odd: dict[int, Cell] = {}
    for i, text in enumerate(texts):
        if text is None:
            odd[i] = None
            continue
        try:
            moment = int(text) if text.isdigit() else parse_ts(text.decode())
        except ValueError:
            odd[i] = text
            continue
        if 0 <= moment <= MAX_TS:
            ts[i] = moment
        else:
            odd[i] = moment
    return ts, odd


def _sequence(column: pa.Array) -> tuple[NDArray[np.int64], dict[int, Cell]]:
    """Sequence numbers, int64 [N], NO_SEQ where missing, and the cells that are none."""
    odd: dict[int, Cell] = {}
    if _is_text(column.type):
        texts = _bytes(_texts(column))
        cells = [int(text) if text and text.removeprefix(b"-").isdigit() else text for text in texts]
        odd = {i: c for i, c in enumerate(cells) if isinstance(c, bytes) or (c is not None and not 0 <= c <= MAX_SEQ)}
        column = pa.array([None if i in odd else cell for i, cell in enumerate(cells)], pa.int64())
    elif pa.types.is_null(column.type):
        column = column.cast(pa.int64())
    elif not pa.types.is_integer(column.type):
        raise _wrong_type("seq", column, "integers, the ticks' numbers in their stream")
    raw = column.fill_null(0).to_numpy()
    wrong = (raw < 0) | (raw > MAX_SEQ)
    odd |= {i: int(raw[i]) for i in np.flatnonzero(wrong).tolist()}
    missing = column.is_null().to_numpy(zero_copy_only=False)
    return np.where(wrong | missing, NO_SEQ, raw).astype(np.int64), odd


def _floats(name: str, column: pa.Array) -> tuple[NDArray[np.float64], dict[int, Cell]]:
    """Numbers, float64 [N] with NaN where missing, and the texts that are no number."""
    kind, types = column.type, pa.types
    odd: dict[int, Cell] = {}
    if _is_text(kind):
        texts = _texts(column)
        column = _parse_floats(texts)
        if column.null_count > texts.null_count:
            lost = pc.and_(texts.is_valid(), column.is_null()).to_numpy(zero_copy_only=False)
            odd = {i: _bytes(texts[i : i + 1])[0] for i in np.flatnonzero(lost).tolist()}
    elif not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind)):
        raise _wrong_type(name, column, "numbers")
    if types.is_decimal(kind):
        column = column.cast(pa.string())  # from which the nearest float64 is made: Arrow's own cast may miss it
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values, odd


def _parse_floats(texts: pa.Array) -> pa.Array:
    """Texts as float64, null where one is no number: halved until it parses: one parser for every row."""
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, pa.float64())
    half = len(texts) // 2
    return pa.concat_arrays([_parse_floats(texts[:half]), _parse_floats(texts[half:])])
