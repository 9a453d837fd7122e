"""Ticks of 64 bytes each, which numpy reads in one piece; the stream is the record's key."""

from __future__ import annotations

import numpy as np

from service.logs import DeadLetter, Records
from service.ticks import MAX_STREAM_LENGTH, MAX_TS, NO_SEQ, NUMBERS, Tick, Ticks, collect, screen, unfit

TICK = np.dtype([("ts", "<i8"), *((name, "<f8") for name in NUMBERS), ("seq", "<i8")])


def decode(records: Records) -> tuple[Ticks, list[DeadLetter]]:
    """See service.formats. A record is a TICK: NaN stands for a missing number, -1 for a missing `seq`."""
    ticks = _columns(records)
    if ticks is not None:
        return screen(records, ticks, {})
    return collect(records, [_read(value) for value in records.value])


def _columns(records: Records) -> Ticks | None:
    """All records at once; None if one of them is to be refused."""
    if None in records.value or not set(map(len, records.value)) <= {TICK.itemsize}:  # type: ignore[arg-type]
        return None
    table = np.frombuffer(b"".join(records.value), TICK)  # type: ignore[arg-type]
    if not all(records.key) or ((table["ts"] < 0) | (table["ts"] > MAX_TS) | (table["seq"] < NO_SEQ)).any():
        return None
    try:
        stream = [key.decode() for key in records.key]  # type: ignore[union-attr]
    except UnicodeDecodeError:
        return None
    if max(map(len, stream), default=0) > MAX_STREAM_LENGTH:
        return None
    ts, seq = table["ts"].astype(np.int64), table["seq"].astype(np.int64)
    numbers = {name: table[name].astype(np.float64) for name in NUMBERS}
    return Ticks(records.partition, records.offset, stream, ts, seq=seq, **numbers)


def _read(value: bytes | None) -> Tick | str:
    """One record, to say what is wrong with it."""
    if not value or len(value) != TICK.itemsize:
        return unfit(value) or f"record has {len(value or b'')} bytes, a binary tick has {TICK.itemsize}"
    row = dict(zip(TICK.names or (), np.frombuffer(value, TICK)[0].tolist(), strict=True))
    return Tick(**row | {"seq": None if row["seq"] == NO_SEQ else row["seq"]})


def encode(ticks: Ticks) -> list[bytes]:
    """The ticks as records that `decode` reads back to the same bits, given each stream's name as the record's key."""
    table = np.empty(len(ticks), TICK)
    for name in TICK.names or ():
        table[name] = getattr(ticks, name)
    return [row.tobytes() for row in table]
