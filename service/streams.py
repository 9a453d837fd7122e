"""The state of all streams: one fixed-size row each, held in columns so that kernels touch only what they need."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service import features, idle, judge
from service.blocks import edges
from service.logs import PartitionState
from service.table import Table
from service.ticks import Ticks

NOBODY = -1
HOUR = 3_600_000_000_000


def layout(recurrent: int, model_id: str) -> str:
    """Names the meaning of every byte of a row; rows of another layout must never be loaded."""
    shape = f"{features.FEATURE_SET} {features.MEMORY.descr} {judge.CHANNELS} {judge.MEMORY.descr} {recurrent} {idle.LIFE.descr}"
    return f"{model_id}/{hashlib.sha256(shape.encode()).hexdigest()[:12]}"


class Streams:
    """Rows of state by partition and stream name. A stream belongs to the partition that its ticks come from.

    `features` (features.MEMORY [R]), `judge` (judge.MEMORY [R]) and `recurrent` (float32 [R, S]) are changed in place by
    the scorer; a row index stays valid until its partition is dropped or the next batch begins.

    A stream that was idle for more than `idle_hours` of event time (0: for ever) begins anew with its next tick, and its row
    is removed; `most` streams of a partition are held, None: any number. Both depend on the partition's ticks alone.
    """

    def __init__(self, recurrent: int, idle_hours: float = 0.0, most: int | None = None) -> None:
        self._memory = (
            Table(64, features.MEMORY), Table(64, judge.MEMORY), Table(64, np.float32, (recurrent,)), Table(64, idle.LIFE)
        )  # fmt: skip
        self._owner = np.full(64, NOBODY, np.int32)  # partition of each row
        self._look()
        self._names: list[str] = []  # of each row that was ever used
        self._idle = round(idle_hours * HOUR) or idle.NEVER
        self.most = most
        self._rows: dict[int, dict[str, int]] = {}
        self._free: list[int] = []  # rows full of zeros
        self._retired: list[int] = []  # free when the batch that may still use them is scored
        self._changed: dict[int, dict[str, int]] = {}
        self._removed: dict[int, dict[str, None]] = {}
        self._clocks = np.ones(1, np.int64)
        self._oldest: dict[int, int] = {}  # a bound: no row of the partition has an older clock

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def names(self) -> list[str]:
        """The streams that are held; any thread may ask."""
        return [name for held in list(self._rows.values()) for name in list(held)]

    @property
    def row_bytes(self) -> int:
        """Size of one row as the log stores it."""
        return sum(table.shape[1] for table in self._tables)

    @property
    def nbytes(self) -> int:
        """Memory held by the rows, spare ones included."""
        return self._owner.nbytes + sum(table.nbytes for table in self._tables)

    def rows(self, ticks: Ticks) -> NDArray[np.int64]:
        """The row of each tick, int64 [N].

        A stream that is new, or was idle for too long, gets a fresh row; all are marked as changed. The row is -1 where the
        stream is new and its partition holds as many as it may.
        """
        if self._retired:
            self._release(self._retired)
            self._retired = []
        n = len(ticks)
        found = np.empty(n, np.int64)
        done = 0
        for first, last in pairwise(edges(ticks.partition).tolist()):
            p, names = int(ticks.partition[first]), ticks.stream[first:last]
            self._ensure_clock(p)
            held, changed = self._rows.setdefault(p, {}), self._changed.setdefault(p, {})
            seen = list(dict.fromkeys(names))
            new = [name for name in seen if name not in held]
            if self.most is None or len(held) + len(new) <= self.most:
                for name in new:
                    held[name] = self._new_row(p, name)
                found[first:last] = list(map(held.__getitem__, names))
                changed.update(zip(seen, map(held.__getitem__, seen), strict=True))
            else:
                done = self._crowded(ticks, found, done, range(first, last))
        self._live(ticks, found, slice(done, n))
        return found

    def _ensure_clock(self, partition: int) -> None:
        missing = partition + 1 - len(self._clocks)
        if missing > 0:
            self._clocks = np.append(self._clocks, np.ones(missing, np.int64))

    def _crowded(self, ticks: Ticks, found: NDArray[np.int64], done: int, part: range) -> int:
        """The rows of a part of the ticks whose partition may be too full for them; returns how far the clocks have run."""
        p = int(ticks.partition[part.start])
        held, changed = self._rows[p], self._changed[p]
        for i in part:
            name = ticks.stream[i]
            row = held.get(name)
            if row is None:
                if self.most is not None and len(held) >= self.most:
                    self._live(ticks, found, slice(done, i))
                    done = i
                    self._expire(p)
                    if len(held) >= self.most:
                        found[i] = NOBODY
                        continue
                row = held[name] = self._new_row(p, name)
            changed[name] = row
            found[i] = row
        return done

    def _live(self, ticks: Ticks, found: NDArray[np.int64], part: slice) -> None:
        """Let the clocks run over some of the ticks; whoever was idle goes on in a fresh row."""
        rows, partition = found[part], ticks.partition[part]
        expired = np.empty(len(rows), np.bool_)
        if not idle.live(partition, rows, ticks.ts[part], self._life, self._clocks, self._idle, expired):
            return
        for i in np.flatnonzero(expired).tolist():
            p, old = int(partition[i]), int(rows[i])
            name = self._names[old]
            new = self._new_row(p, name)
            self._life[new] = self._life[old]
            self._rows[p][name] = self._changed[p][name] = new
            rows[i:][rows[i:] == old] = new
            self._retire(old)

    def _new_row(self, partition: int, name: str) -> int:
        if self._free:
            row = self._free.pop()
            self._names[row] = name
        else:
            row = len(self._names)
            if row == len(self.features):
                self._grow(row + max(64, row // 8))
            self._names.append(name)
        self._owner[row] = partition
        return row

    def _new_rows(self, partition: int, names: list[str]) -> NDArray[np.int64]:
        """As many rows as names, to be written by the caller."""
        reused, self._free = self._free[: len(names)], self._free[len(names) :]
        for row, name in zip(reused, names, strict=False):
            self._names[row] = name
        first = len(self._names)
        self._names += names[len(reused) :]
        if len(self._names) > len(self.features):
            self._grow(len(self._names) + max(64, len(self._names) // 8))
        rows = np.concatenate([np.array(reused, np.int64), np.arange(first, len(self._names))])
        self._owner[rows] = partition
        return rows

    def _release(self, rows: list[int]) -> None:
        for table in self._tables:
            table[rows] = 0
        self._owner[rows] = NOBODY
        self._free += rows

    def _retire(self, row: int) -> None:
        self._owner[row] = NOBODY
        self._retired.append(row)

    def _grow(self, size: int) -> None:
        del self.features, self.judge, self.recurrent, self._life, self._tables
        for table in self._memory:
            table.grow(size)
        self._owner.resize(size, refcheck=False)
        self._look()

    def _look(self) -> None:
        self.features, self.judge, self.recurrent, self._life = (table.rows for table in self._memory)
        # as bytes uint8 [R, ...]: padding between fields is carried along and stays 0
        self._tables = [table.rows.view(np.uint8).reshape(len(table.rows), -1) for table in self._memory]

    def _expire(self, partition: int) -> None:
        """Remove the partition's rows that are idle by now: their next tick would begin anew anyway."""
        newest_idle = int(self._clocks[partition]) - self._idle - 1
        if newest_idle < self._oldest.get(partition, 1):
            return
        used = len(self._names)
        mine = np.flatnonzero(self._owner[:used] == partition)
        clock = self._life["clock"][mine]
        for row in mine[clock <= newest_idle].tolist():
            name = self._names[row]
            del self._rows[partition][name]
            self._changed[partition].pop(name, None)
            self._removed.setdefault(partition, {})[name] = None
            self._retire(row)
        self._oldest[partition] = int(clock[clock > newest_idle].min())  # the last tick's stream is never idle

    def changed(self, *, late: bool = False) -> list[PartitionState]:
        """The rows touched and the streams removed since the last call, by partition; the caller makes them durable.

        With `late` rows are packed only as they are sliced, which has to be before the next batch and spares a copy of them all.
        """
        states = []
        for partition, rows in self._changed.items():
            self._expire(partition)
            held = self._rows[partition]
            removed = [name for name in self._removed.get(partition, ()) if name not in held]
            packed = Packed(self, list(rows.values()))
            states.append(PartitionState(partition, list(rows), packed if late else packed[:], removed))
        self._changed = {}
        self._removed = {}
        return states

    def packed(self, partition: int, names: list[str]) -> NDArray[np.uint8]:
        """The present rows uint8 [n, row_bytes] of some streams of a partition."""
        return self.packed_all([(partition, names)])

    def packed_all(self, wanted: list[tuple[int, list[str]]]) -> NDArray[np.uint8]:
        """The same of several partitions, one behind the other."""
        return self.pack([self._rows[partition][name] for partition, names in wanted for name in names])

    def pack(self, rows: list[int]) -> NDArray[np.uint8]:
        """The rows of these indexes, uint8 [n, row_bytes]."""
        at = np.array(rows, np.int64)
        return np.concatenate([table.take(at, axis=0) for table in self._tables], axis=1)  # half the time of table[at]

    def load(self, state: PartitionState) -> None:
        """Take over a partition with the rows that the log restored; whatever was held of it is dropped."""
        self.drop(state.partition)
        if not state.streams:
            return
        p = state.partition
        at = self._new_rows(p, state.streams)
        self._rows[p] = dict(zip(state.streams, at.tolist(), strict=True))
        start, rows = 0, state.rows[:]
        for table in self._tables:
            table[at] = rows[:, start : start + table.shape[1]]
            start += table.shape[1]
        clock = self._life["clock"][at]
        self._ensure_clock(p)
        self._clocks[p] = max(1, int(clock.max()))  # the stream of the partition's last tick has it
        self._oldest[p] = int(clock.min())

    def drop(self, *partitions: int) -> None:
        """Forget the streams of some partitions."""
        rows = [row for partition in partitions for row in self._rows.pop(partition, {}).values()]
        if rows:
            self._release(rows)
        for partition in partitions:
            self._changed.pop(partition, None)
            self._removed.pop(partition, None)
            self._oldest.pop(partition, None)
            if partition < len(self._clocks):
                self._clocks[partition] = 1

    def remove(self, partition: int, names: list[str]) -> None:
        """Forget some streams of a partition, between two batches; those it does not hold are passed over."""
        held, changed = self._rows.get(partition, {}), self._changed.get(partition, {})
        for name in names:
            if name in held:
                self._retire(held.pop(name))
                changed.pop(name, None)

    def clear(self) -> None:
        """Forget everything."""
        self.drop(*self._rows)


class Packed:
    """See service.logs.Rows: the rows of some streams."""

    def __init__(self, streams: Streams, rows: list[int]) -> None:
        self._streams = streams
        self._rows = rows

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """Some of the rows, as they are now."""
        return self._streams.pack(self._rows[part])
