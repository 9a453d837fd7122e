"""The state of all streams: one fixed-size row each, held in columns so that kernels touch only what they need."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from service import features, judge
from service.logs import PartitionState


def layout(recurrent: int, model_id: str) -> str:
    """Names the meaning of every byte of a row; rows of another layout must never be loaded."""
    shape = f"{features.FEATURE_SET} {features.MEMORY.descr} {judge.CHANNELS} {judge.MEMORY.descr} {recurrent}"
    return f"{model_id}/{hashlib.sha256(shape.encode()).hexdigest()[:12]}"


class Streams:
    """Rows of state by partition and stream name. A stream belongs to the partition that its ticks come from.

    `features` (features.MEMORY [R]), `judge` (judge.MEMORY [R]) and `recurrent` (float32 [R, S]) are changed in place by
    the scorer; a row index stays valid until its partition is dropped.
    """

    def __init__(self, recurrent: int) -> None:
        self.features = np.zeros(64, features.MEMORY)
        self.judge = np.zeros(64, judge.MEMORY)
        self.recurrent = np.zeros((64, recurrent), np.float32)
        self._rows: dict[int, dict[str, int]] = {}
        self._free: list[int] = []
        self._used = 0
        self._changed: dict[int, dict[str, int]] = {}

    def __len__(self) -> int:
        return self._used - len(self._free)

    @property
    def row_bytes(self) -> int:
        """Size of one row as the log stores it."""
        return features.MEMORY.itemsize + judge.MEMORY.itemsize + self.recurrent.itemsize * self.recurrent.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory held by the rows, spare ones included."""
        return self.features.nbytes + self.judge.nbytes + self.recurrent.nbytes

    def rows(self, partition: NDArray[np.int32], names: list[str]) -> NDArray[np.int64]:
        """The row of each tick, int64 [N]; a stream seen for the first time gets a fresh one. All are marked as changed."""
        found = np.empty(len(names), np.int64)
        held: dict[str, int] = {}
        changed: dict[str, int] = {}
        current = -1
        for i, (p, name) in enumerate(zip(partition.tolist(), names, strict=True)):
            if p != current:
                held = self._rows.setdefault(p, {})
                changed = self._changed.setdefault(p, {})
                current = p
            row = held.get(name)
            if row is None:
                row = held[name] = self._new_row()
            changed[name] = row
            found[i] = row
        return found

    def _new_row(self) -> int:
        if self._free:
            row = self._free.pop()
            for table in self._bytes():
                table[row] = 0
            return row
        if self._used == len(self.features):
            self._grow(self._used + max(64, self._used // 8))
        self._used += 1
        return self._used - 1

    def _grow(self, size: int) -> None:
        # resize in place: realloc moves pages instead of copying and never holds two tables
        self.features.resize(size, refcheck=False)
        self.judge.resize(size, refcheck=False)
        self.recurrent.resize((size, self.recurrent.shape[1]), refcheck=False)

    def changed(self) -> list[PartitionState]:
        """The rows touched since the last call, by partition; the caller makes them durable."""
        states = []
        for partition, rows in self._changed.items():
            states.append(PartitionState(partition, list(rows), self._pack(list(rows.values()))))
        self._changed = {}
        return states

    def packed(self, partition: int, names: list[str]) -> NDArray[np.uint8]:
        """The present rows uint8 [n, row_bytes] of some streams of a partition."""
        held = self._rows[partition]
        return self._pack([held[name] for name in names])

    def _bytes(self) -> list[NDArray[np.uint8]]:
        """Views of the tables as bytes uint8 [R, ...]: padding between fields is carried along and stays 0."""
        tables = (self.features, self.judge, self.recurrent)
        return [table.view(np.uint8).reshape(len(table), -1) for table in tables]

    def _pack(self, rows: list[int]) -> NDArray[np.uint8]:
        return np.concatenate([table[rows] for table in self._bytes()], axis=1)

    def load(self, state: PartitionState) -> None:
        """Take over a partition with the rows that the log restored; whatever was held of it is dropped."""
        self.drop(state.partition)
        if not state.streams:
            return
        held = self._rows.setdefault(state.partition, {})
        at = np.array([self._new_row() for _ in state.streams], np.int64)
        held.update(zip(state.streams, at.tolist(), strict=True))
        start = 0
        for table in self._bytes():
            table[at] = state.rows[:, start : start + table.shape[1]]
            start += table.shape[1]

    def drop(self, partition: int) -> None:
        """Forget a partition's streams."""
        self._free += self._rows.pop(partition, {}).values()
        self._changed.pop(partition, None)

    def clear(self) -> None:
        """Forget everything."""
        for partition in list(self._rows):
            self.drop(partition)
