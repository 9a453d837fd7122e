"""Tick files as a feed: one file in its own order, several merged by time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError
from service.feed import Chunk
from service.files import CHUNK_ROWS, FileChunk, count_ticks, read_ticks
from service.logs import DeadLetter
from service.ticks import MAX_RECORD_BYTES, encode

MIN_ROWS: Final = 1024  # rows read ahead per file, however many files there are


class _Position(msgspec.Struct):
    """Rows emitted of each file and the latest time among them; `inputs` tells these files from any others."""

    inputs: str
    rows: list[int]
    times: list[int]


# Some rows of one file, or of all files merged: `time` is the latest event time of the row's file so far, int64 [N].
_Rows = tuple[NDArray[np.int64], list[bytes]]
_Block = tuple[NDArray[np.intp], NDArray[np.int64], list[bytes]]
_END: Final[_Block] = (np.empty(0, np.intp), np.empty(0, np.int64), [])


class FileFeed:
    """A feed of tick files; see `service.feed.Feed`.

    Files are merged by the latest event time that each has reached, ties by the order of `paths`. So every file keeps
    its own order, late rows included, and the result depends on the files alone. Rows that can't be read are records
    too, which `decode` turns down. Raises TickwatchError when `position` was reached with other files.
    """

    def __init__(self, paths: list[Path], position: bytes | None = None) -> None:
        self.total: int | None = count_ticks(paths)
        inputs = _fingerprint(paths)
        self._position = _Position(inputs, [0] * len(paths), [0] * len(paths))
        if position is not None:
            self._position = _resume(position, inputs)
        rows = max(MIN_ROWS, CHUNK_ROWS // len(paths))
        starts = zip(paths, self._position.rows, self._position.times, strict=True)
        self._merged = _merge([_rows(path, row, time, rows) for path, row, time in starts])
        self._file, self._time, self._values = next(self._merged, _END)
        self._at = 0
        known = self._time[self._time > 0]
        self.start_ts = int(known[0]) if len(known) else max(self._position.times)

    def read(self, until_ts: int | None, limit: int) -> Chunk | None:
        """At most `limit` ticks whose file has not passed `until_ts` (any, if None); None once all files have ended."""
        if self._at == len(self._values):
            self._file, self._time, self._values = next(self._merged, _END)
            self._at = 0
        if not self._values:
            return None
        ready = len(self._values) if until_ts is None else int(np.searchsorted(self._time, until_ts, side="right"))
        stop = max(self._at, min(self._at + limit, ready))
        for file, time in zip(self._file[self._at : stop].tolist(), self._time[self._at : stop].tolist(), strict=True):
            self._position.rows[file] += 1
            self._position.times[file] = time
        values = self._values[self._at : stop]
        self._at = stop
        return Chunk(values, msgspec.json.encode(self._position))


def _fingerprint(paths: list[Path]) -> str:
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _resume(position: bytes, inputs: str) -> _Position:
    try:
        found = msgspec.json.decode(position, type=_Position)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TickwatchError(
            "the run to be resumed did not read tick files; start afresh, or resume it with its own feed"
        ) from error
    if found.inputs != inputs:
        raise TickwatchError(
            "the tick files are not those of the run to be resumed (another name, size or time of change); "
            "give the same files, or start afresh"
        )
    return found


def _rows(path: Path, row: int, time: int, limit: int) -> Iterator[_Rows]:
    """The rows of a file from `row` on, where the latest time so far is `time`."""
    for chunk in read_ticks(path, row, limit):
        values, ts = _records(chunk)
        times = np.maximum.accumulate(np.maximum(ts, time))
        time = int(times[-1])
        yield times, values


def _records(chunk: FileChunk) -> tuple[list[bytes], NDArray[np.int64]]:
    """All rows of a chunk in order, as records, and their event times: 0 for those that can't be read."""
    values = encode(chunk.ticks)
    if not chunk.rejects:
        return values, chunk.ticks.ts
    values += map(_record, chunk.rejects)
    offset = np.concatenate([chunk.ticks.offset, [reject.offset for reject in chunk.rejects]])
    order = np.argsort(offset)
    return [values[i] for i in order.tolist()], np.append(chunk.ticks.ts, np.zeros(len(chunk.rejects), np.int64))[order]


def _record(reject: DeadLetter) -> bytes:
    """The rejected record, with its key put in as the stream that it names not: records of a feed have no key."""
    value = reject.value or b""
    if reject.key is None or len(value) > MAX_RECORD_BYTES:
        return value
    try:
        fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value
    if bytes(fields.get("stream", b"null")) != b"null":
        return value
    return msgspec.json.encode(fields | {"stream": msgspec.Raw(msgspec.json.encode(reject.key.decode()))})


def _merge(files: list[Iterator[_Rows]]) -> Iterator[_Block]:
    """Blocks of the files' rows in the order of (time, file, row): file [N], time [N] and records [N].

    The file whose rows at hand end first bounds what is safe to emit: all that is not after its last row.
    """
    ahead = {i: rows for i, file in enumerate(files) if (rows := next(file, None))}
    begin = dict.fromkeys(ahead, 0)
    while ahead:
        first = min(ahead, key=lambda i: int(ahead[i][0][-1]))  # the lowest of equals
        bound = ahead[first][0][-1]
        parts: list[tuple[int, NDArray[np.int64], list[bytes]]] = []
        for i, (time, values) in ahead.items():
            end = int(np.searchsorted(time, bound, side="right" if i <= first else "left"))
            if end > begin[i]:
                parts.append((i, time[begin[i] : end], values[begin[i] : end]))
                begin[i] = end
        time = np.concatenate([part[1] for part in parts])
        values = [value for part in parts for value in part[2]]
        order = np.argsort(time, kind="stable")
        file = np.repeat([part[0] for part in parts], [len(part[1]) for part in parts])
        yield file[order], time[order], [values[i] for i in order.tolist()]
        begin[first] = 0
        if rows := next(files[first], None):
            ahead[first] = rows
        else:
            del ahead[first]
