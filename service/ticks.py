"""Ticks as columns, and the decoder that turns JSON records into them or into dead letters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from operator import attrgetter
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
OURS = (631_152_000 * 10**9, 4_102_444_800 * 10**9)  # 1990 to 2100

NUMBERS = ("price", "size", "bid", "ask", "bid_size", "ask_size")
_PRICE = NUMBERS.index("price")
_SIZES = [NUMBERS.index(name) for name in NUMBERS if name.endswith("size")]


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


def wrong_unit(ts: NDArray[np.int64]) -> str:
    """What is wrong with times that all lie in 1970 and would all be of our days in another unit; else nothing."""
    if not len(ts):
        return ""
    first, last = int(ts.min()), int(ts.max())
    for unit, factor in (("seconds", 10**9), ("milliseconds", 10**6), ("microseconds", 10**3)):
        if OURS[0] <= first * factor and last * factor < OURS[1]:
            return (
                f"ts {first} is in January 1970; it looks like {unit}, but must be nanoseconds since 1970:"
                f" multiply by {factor:,} or store timestamps"
            )
    return ""


Decode = Callable[[Records], tuple[Ticks, list[DeadLetter]]]


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
_NUMBER = {name: attrgetter(name) for name in NUMBERS}


def parse_ts(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time; a time without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    _, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))] if dot else ""
    fraction = int(digits[:9].ljust(9, "0")) if digits else moment.microsecond * 1000
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + fraction


def explain(error: msgspec.ValidationError) -> str:
    """What is wrong with a tick's fields, the field first."""
    what, _, where = str(error).partition(" - at `$.")
    missing = what.removeprefix("Object missing required field ")
    if missing != what:
        return f"{missing.strip('`')} is missing"
    return f"{where.rstrip('`')}: {what}" if where else what


def unfit(value: bytes | None) -> str:
    """Why no format can make a tick of a record; empty if one might."""
    if not value:
        return "empty record"
    return f"record has {len(value)} bytes, the limit is {MAX_RECORD_BYTES}" if len(value) > MAX_RECORD_BYTES else ""


def _read(value: bytes | None) -> Tick | str:
    """The tick in a JSON record, or the reason why there is none."""
    if reason := unfit(value):
        return reason
    try:
        return _decode_tick(value)  # type: ignore[arg-type]  # not None
    except msgspec.ValidationError as error:
        return explain(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not JSON: {error}"


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
    # one look at all, for there is mostly nothing to find
    table = np.concatenate([columns[name] for name in NUMBERS]).reshape(len(NUMBERS), -1)
    wrong = np.abs(table) > MAX_MAGNITUDE
    wrong[_PRICE] |= np.isnan(table[_PRICE])
    wrong[_SIZES] |= table[_SIZES] < 0
    found: dict[int, str] = {}
    for row, i in np.argwhere(wrong).tolist():
        name, value = NUMBERS[row], float(table[row, i])
        if not math.isfinite(value):
            why = f"{name} is not a finite number"
        elif abs(value) > MAX_MAGNITUDE:
            why = f"{name} {value!r} is beyond {MAX_MAGNITUDE:g}"
        else:
            why = f"{name} {value!r} is negative"
        found.setdefault(i, why)
    return found


def decode(records: Records) -> tuple[Ticks, list[DeadLetter]]:
    """Ticks of the JSON records that can be read, in order, and a dead letter for each of the others."""
    values = records.value
    if None not in values and max(map(len, values), default=0) <= MAX_RECORD_BYTES:  # type: ignore[arg-type]
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return collect(records, list(map(_decode_tick, values)))  # type: ignore[arg-type]
    return collect(records, [_read(value) for value in values])  # one by one, to say which and why


def collect(records: Records, found: Sequence[Tick | str]) -> tuple[Ticks, list[DeadLetter]]:
    """The columns of what a format found in each record: a tick, or the reason why there is none.

    A tick without a stream gets the record's key.
    """
    kept = [t for t in found if not isinstance(t, str)]
    ticks = _columns(records, slice(None), kept) if len(kept) == len(found) else None
    if ticks is not None:
        return screen(records, ticks, {})
    found = [t if isinstance(t, str) else _fill_in(t, key) for t, key in zip(found, records.key, strict=True)]
    reasons = {i: t for i, t in enumerate(found) if isinstance(t, str)}
    at = np.delete(np.arange(len(records)), list(reasons))
    ticks = _columns(records, at, [t for t in found if not isinstance(t, str)])
    return screen(records, ticks, reasons)  # type: ignore[arg-type]  # nothing is left to fill in or to refuse


def _columns(records: Records, at: slice | NDArray[np.intp], kept: list[Tick]) -> Ticks | None:
    """The ticks found in the records `at`; None if one of them has to be filled in or refused first."""
    stream = [t.stream for t in kept]
    moments = [t.ts for t in kept]
    numbers = [t.seq for t in kept]
    if stream.count(None) == len(records) and all(records.key):  # a feed that leaves it to its keys
        with suppress(UnicodeDecodeError):
            stream = [key.decode() for key in records.key]  # type: ignore[union-attr]
    if None in stream or str in set(map(type, moments)):
        return None
    lengths = set(map(len, stream))  # type: ignore[arg-type]
    if lengths and not 0 < min(lengths) <= max(lengths) <= MAX_STREAM_LENGTH:
        return None
    unnumbered = numbers.count(None)
    try:
        ts = np.array(moments, np.int64)
        seq = np.array([NO_SEQ if s is None else s for s in numbers] if unnumbered else numbers, np.int64)
    except OverflowError:
        return None
    if ((ts < 0) | (ts > MAX_TS)).any() or np.count_nonzero(seq < 0) > unnumbered:
        return None
    columns = {name: np.fromiter(map(get, kept), np.float64, len(kept)) for name, get in _NUMBER.items()}
    return Ticks(records.partition[at], records.offset[at], stream, ts, seq=seq, **columns)  # type: ignore[arg-type]


def screen(records: Records, ticks: Ticks, reasons: dict[int, str]) -> tuple[Ticks, list[DeadLetter]]:
    """The ticks without those that no detector should see, and all dead letters.

    `ticks` are those of the records, in order, that have no reason against them in `reasons`, by the record's place.
    """
    bad = problems({name: getattr(ticks, name) for name in NUMBERS})
    if bad:
        place = np.delete(np.arange(len(records)), list(reasons)).tolist()
        reasons = reasons | {place[i]: why for i, why in bad.items()}
        ticks = ticks.take(np.delete(np.arange(len(ticks)), list(bad)))
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
