"""Ticks as columns, and the decoder that turns JSON records into them or into dead letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.logs import DeadLetter, Records

MAX_RECORD_BYTES = 65_536
MAX_STREAM_LENGTH = 256
MAX_MAGNITUDE = 1e15  # prices and sizes beyond this are taken for corrupt: their squares must stay finite
MAX_TS = 2**63 - 1 - 10**18  # leaves room for differences in int64 nanoseconds
MAX_SEQ = 2**63 - 1
NO_SEQ = -1

NUMBERS = ("price", "size", "bid", "ask", "bid_size", "ask_size")


@dataclass(frozen=True)
class Ticks:
    """N ticks in log order, one column per field.

    `partition` int32 [N] and `offset` int64 [N] say where each came from; `stream` is a list of N names; `ts` int64 [N]
    nanoseconds since 1970; the other columns are float64 [N] in the feed's own units, NaN where the feed has none.
    `size` 0 or NaN marks a quote update. `seq` int64 [N] is the feed's own number of the tick in its stream, NO_SEQ where it
    gives none.
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    stream: list[str]
    ts: NDArray[np.int64]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    bid: NDArray[np.float64]
    ask: NDArray[np.float64]
    bid_size: NDArray[np.float64]
    ask_size: NDArray[np.float64]
    seq: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, index: NDArray[np.intp]) -> Ticks:
        """The ticks at `index`, in that order."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        names = self.stream
        columns = {k: v[index] for k, v in columns.items() if k != "stream"}
        return replace(self, stream=[names[i] for i in index.tolist()], **columns)


class Tick(msgspec.Struct, gc=False):
    """One tick on the wire. Fields it does not know are ignored, so that a feed may say more than we read."""

    ts: int | str
    price: float
    stream: str | None = None
    size: float | None = None
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    seq: int | None = None


_decode_tick = msgspec.json.Decoder(Tick).decode


def parse_ts(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time; a time without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    _, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    fraction = int(digits[:9].ljust(9, "0")) if digits else moment.microsecond * 1000
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + fraction


def _decode_one(value: bytes | None, key: bytes | None) -> Tick | str:
    """The tick in one record, its stream and integer `ts` filled in, or the reason why there is none."""
    if not value:
        return "empty record"
    if len(value) > MAX_RECORD_BYTES:
        return f"record has {len(value)} bytes, the limit is {MAX_RECORD_BYTES}"
    try:
        tick = _decode_tick(value)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        return f"{where.rstrip('`')}: {what}" if where else what
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    return _fill_in(tick, key)


def _fill_in(tick: Tick, key: bytes | None) -> Tick | str:
    """The tick with its stream from the key where it names none, and with integer `ts`; or what is wrong with them."""
    if tick.stream is None:
        if not key:
            return "stream is missing, in the record and as its key"
        try:
            tick.stream = key.decode()
        except UnicodeDecodeError as error:
            return f"stream, taken from the key, is not UTF-8: {error.reason}"
    if not 0 < len(tick.stream) <= MAX_STREAM_LENGTH:
        return f"stream has {len(tick.stream)} characters, allowed are 1 to {MAX_STREAM_LENGTH}"
    if isinstance(tick.ts, str):
        try:
            tick.ts = parse_ts(tick.ts)
        except ValueError as error:
            return f"ts: {error}"
    if not 0 <= tick.ts <= MAX_TS:
        return f"ts {tick.ts} is outside 0 to {MAX_TS} nanoseconds since 1970"
    if tick.seq is not None and not 0 <= tick.seq <= MAX_SEQ:
        return f"seq {tick.seq} is outside 0 to {MAX_SEQ}"
    return tick


def problems(columns: dict[str, NDArray[np.float64]]) -> dict[int, str]:
    """Rows that no detector should see, with the reason: row index -> sentence. Columns are float64 [N], NaN = missing."""
    found: dict[int, str] = {}
    for name in NUMBERS:
        values = columns[name]
        bad = np.abs(values) > MAX_MAGNITUDE
        if name == "price":
            bad |= np.isnan(values)
        if name.endswith("size"):
            bad |= values < 0
        for i in np.flatnonzero(bad).tolist():
            value = float(values[i])
            if not math.isfinite(value):
                why = f"{name} is not a finite number"
            elif abs(value) > MAX_MAGNITUDE:
                why = f"{name} {value!r} is beyond {MAX_MAGNITUDE:g}"
            else:
                why = f"{name} {value!r} is negative"
            found.setdefault(i, why)
    return found


def decode(records: Records) -> tuple[Ticks, list[DeadLetter]]:
    """Ticks of the records that can be read, in order, and a dead letter for each of the others."""
    kept: list[Tick] = []
    index: list[int] = []
    reasons: dict[int, str] = {}
    for i, (value, key) in enumerate(zip(records.value, records.key, strict=True)):
        tick = _decode_one(value, key)
        if isinstance(tick, str):
            reasons[i] = tick
        else:
            kept.append(tick)
            index.append(i)
    columns = {name: np.array([getattr(t, name) for t in kept], dtype=np.float64) for name in NUMBERS}
    at = np.array(index, dtype=np.intp)
    ticks = Ticks(
        partition=records.partition[at],
        offset=records.offset[at],
        stream=[t.stream for t in kept],  # type: ignore[misc]  # filled in by _decode_one
        ts=np.array([t.ts for t in kept], dtype=np.int64),
        seq=np.array([NO_SEQ if t.seq is None else t.seq for t in kept], dtype=np.int64),
        **columns,
    )
    bad = problems(columns)
    if bad:
        reasons |= {index[i]: why for i, why in bad.items()}
        ticks = ticks.take(np.setdiff1d(np.arange(len(kept)), np.fromiter(bad, dtype=np.intp)))
    return ticks, [records.dead_letter(i, reasons[i]) for i in sorted(reasons)]


def encode(ticks: Ticks) -> list[bytes]:
    """The ticks as JSON records that `decode` reads back to the same bits; missing numbers are left out."""
    names = [n for n in NUMBERS if n == "price" or not np.isnan(getattr(ticks, n)).all()]
    columns: list[Sequence[Any]] = [ticks.stream, ticks.ts.tolist()]
    columns += [getattr(ticks, n).tolist() for n in names]
    columns.append([math.nan if seq == NO_SEQ else seq for seq in ticks.seq.tolist()])
    keys = ("stream", "ts", *names, "seq")
    to_json = msgspec.json.Encoder().encode
    return [
        to_json({k: v for k, v in zip(keys, row, strict=True) if v == v})  # noqa: PLR0124  (NaN is not itself)
        for row in zip(*columns, strict=True)
    ]
