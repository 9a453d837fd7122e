"""A worker that counts: KafkaLog driven by a state so simple that every output can be checked by hand.

The state of a stream is (ticks seen, sum of their values). Each tick yields the alert `offset count sum` keyed by its stream, so
a lost or repeated tick shows in every later alert of the stream. A value that is no number is a dead letter.

As a program it runs until SIGTERM: `toy.py BOOTSTRAP PREFIX INSTANCE CLIENT`.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.connection import KafkaSettings
from service.logs import Checkpoint, DeadLetter, LogReset, Output, PartitionState
from service.logs.kafka import KafkaLog

ROW_BYTES = 16
PREFIXES = (f"t{time.time_ns()}-{i}" for i in itertools.count())


def fresh_names(bootstrap: str, instance: str = "one") -> KafkaSettings:
    """Settings whose topics do not exist yet."""
    return names(bootstrap, next(PREFIXES), instance)


def names(bootstrap: str, prefix: str, instance: str) -> KafkaSettings:
    """Settings of a toy: all topics and the group begin with `prefix`."""
    return KafkaSettings(
        bootstrap_servers=bootstrap,
        group=f"{prefix}-group",
        ticks=f"{prefix}-ticks",
        alerts=f"{prefix}-alerts",
        scores=f"{prefix}-scores",
        dead_letters=f"{prefix}-dead",
        changelog=f"{prefix}-changelog",
        instance=instance,
    )


class Toy:
    """Counts and sums the values of each stream."""

    def __init__(self, settings: KafkaSettings, layout: str = "toy", **options: Any) -> None:
        self.state: dict[tuple[int, str], tuple[int, int]] = {}
        self.resets = 0
        self.restored: list[int] = []
        self.lost: list[int] = []
        self._offsets: dict[int, int] = {}
        self._changed: dict[int, dict[str, None]] = {}
        self._alerts: list[Output] = []
        self._letters: list[DeadLetter] = []
        self.log = KafkaLog(settings, ROW_BYTES, layout, self.rows, **options)

    def rows(self, partition: int, streams: list[str]) -> NDArray[np.uint8]:
        """State rows as the log keeps them."""
        table = np.array([self.state[partition, s] for s in streams], np.int64).reshape(len(streams), 2)
        return table.view(np.uint8)

    def step(self, timeout_ms: int = 50) -> int:
        """Poll, count, commit."""
        try:
            poll = self.log.poll(timeout_ms, self.commit)
            for partition in poll.lost:
                self.state = {key: row for key, row in self.state.items() if key[0] != partition}
                self._changed.pop(partition, None)
            for restored in poll.restored:
                table = np.ascontiguousarray(restored.rows[:]).view(np.int64).tolist()
                self.state |= {
                    (restored.partition, s): (n, total) for s, (n, total) in zip(restored.streams, table, strict=True)
                }
            self.restored += [r.partition for r in poll.restored]
            self.lost += poll.lost
            records = poll.records
            for i, (partition, offset) in enumerate(
                zip(records.partition.tolist(), records.offset.tolist(), strict=True)
            ):
                self._tick(partition, offset, records.key[i], records.value[i])
            self.commit()
            return len(records)
        except LogReset:
            self.resets += 1
            self.state, self._offsets, self._changed, self._alerts, self._letters = {}, {}, {}, [], []
            return 0

    def _tick(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        self._offsets[partition] = offset + 1
        if not key or not value or not value.lstrip(b"-").isdigit():
            self._letters.append(DeadLetter(partition, offset, key, value, "not a number"))
            return
        stream = key.decode()
        count, total = self.state.get((partition, stream), (0, 0))
        self.state[partition, stream] = count + 1, total + int(value)
        self._changed.setdefault(partition, {})[stream] = None
        self._alerts.append(Output(partition, key, f"{offset} {count + 1} {total + int(value)}".encode()))

    def commit(self) -> None:
        """Commit what was counted since the last time."""
        if not self._offsets:
            return
        states = [PartitionState(p, list(s), self.rows(p, list(s))) for p, s in self._changed.items()]
        checkpoint = Checkpoint(self._offsets, states, self._alerts, [], self._letters)
        self._offsets, self._changed, self._alerts, self._letters = {}, {}, [], []
        self.log.commit(checkpoint)


def main(bootstrap: str, prefix: str, instance: str, client: str = "kafka-python") -> None:
    """Run until SIGTERM."""
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    toy = Toy(names(bootstrap, prefix, instance), client=client, max_records=50)
    while running:
        toy.step()
    toy.commit()
    toy.log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
