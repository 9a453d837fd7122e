"""The seam between the worker and the place where ticks come from and where results go: a log.

A log is Kafka, the embedded SQLite file, or a file. All three promise the same: records of a partition come in offset
order, and one `commit` makes alerts, dead letters, scores, changed state and the next offsets durable together, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SCHEMA_HEADER = "__value_schema_id"  # where a schema registry's clients may say how a record's value is to be read
TRACE_HEADER = "traceparent"  # where a producer may say which span sent a record (https://www.w3.org/TR/trace-context/)


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be scored, unchanged, with the reason in words."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    schema: bytes | None = None


@dataclass(frozen=True)
class Records:
    """N raw records in log order: `partition` int32 [N], `offset` int64 [N], `key` and `value` as they arrived.

    `schema` is each record's header SCHEMA_HEADER, or empty if none has it; `trace` its header TRACE_HEADER, or empty if
    nobody asked for it.
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    key: list[bytes | None]
    value: list[bytes | None]
    schema: list[bytes | None] = field(default_factory=list)
    trace: list[bytes | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.value)

    def dead_letter(self, i: int, reason: str) -> DeadLetter:
        """Record `i` as a dead letter."""
        schema = self.schema[i] if self.schema else None
        return DeadLetter(int(self.partition[i]), int(self.offset[i]), self.key[i], self.value[i], reason, schema)


NOTHING = Records(np.zeros(0, np.int32), np.zeros(0, np.int64), [], [])


class Rows(Protocol):
    """State rows: an array uint8 [n, bytes per row], or what gives such arrays as it is sliced, good until the next batch."""

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        """Some of the rows."""


@dataclass(frozen=True)
class PartitionState:
    """State rows of one partition: `streams` are n names, `rows` are theirs in the same order.

    In a checkpoint, `removed` names further streams whose rows are to be forgotten.
    """

    partition: int
    streams: list[str]
    rows: Rows
    removed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Poll:
    """What one poll brought. Handle it in this order: forget `lost`, load `restored`, then score `records`.

    `lost` lists partitions that this worker no longer owns; `restored` holds, for each newly owned partition, the state
    of its streams as of the offset from which its records will follow; their rows are good until the next poll.
    """

    records: Records
    restored: list[PartitionState] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Output:
    """One encoded result that belongs to an input partition, keyed by its stream's name in UTF-8."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that one commit makes durable together.

    `offsets` maps each partition to the next offset to read; `states` holds the rows that changed since the last commit;
    `scores` are packed frames, empty unless scores are asked for.
    """

    offsets: dict[int, int]
    states: list[PartitionState] = field(default_factory=list)
    alerts: list[Output] = field(default_factory=list)
    scores: list[Output] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def only(self, partitions: Collection[int]) -> Checkpoint:
        """What of it belongs to some partitions."""
        return Checkpoint(
            {p: offset for p, offset in self.offsets.items() if p in partitions},
            [state for state in self.states if state.partition in partitions],
            [alert for alert in self.alerts if alert.partition in partitions],
            [frame for frame in self.scores if frame.partition in partitions],
            [letter for letter in self.dead_letters if letter.partition in partitions],
        )


class Log(Protocol):
    """Where ticks come from and where results go. One worker uses one log from one thread."""

    name: str  # topic or table of the input, part of every alert's id
    connect_attempts: int  # to reach the log since the last success

    @property
    def connected(self) -> bool:
        """Whether the log can be reached, as far as is known."""

    @property
    def restoring(self) -> int:
        """Partitions that are owned and still wait for their state."""

    def poll(self, timeout_ms: int, before_revoke: Callable[[], None]) -> Poll:
        """Records of the partitions that are owned and restored; waits at most `timeout_ms` when there are none.

        When partitions are about to move to another worker, the log calls `before_revoke`, which commits what has been
        scored so far. Raises LogReset when uncommitted work is void and must be forgotten.
        """

    def commit(self, checkpoint: Checkpoint) -> None:
        """Make the checkpoint durable, all of it or none. Raises LogReset when it did not happen."""

    def lag(self) -> dict[int, int]:
        """Records not yet polled, by partition, as far as is known without asking anyone."""

    def close(self) -> None:
        """Release the log without committing."""


class LogReset(Exception):
    """Everything since the last commit is void: drop all state and poll again; the log restores what it had."""
