"""A worker's place in the consumer group: which partitions are its own, and in what condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from service.connection import KafkaSettings
from service.logs.client import Client


class Membership:
    """A static member of the group that reads `settings.ticks`.

    Its partitions are `waiting` for their state, each with the serial number of its assignment, or `active` when records
    flow; `gone` lists those that were active and went since it was last emptied. With `linger_ms` the broker holds few records
    back for so long, that more may come: each fetch costs a client more than many ticks do. It is the Rebalance of its
    `consumer`.
    """

    def __init__(self, settings: KafkaSettings, client: Client, linger_ms: int = 0, *, traced: bool = False) -> None:
        self.waiting: dict[int, int] = {}
        self.active: set[int] = set()
        self.gone: list[int] = []
        self.before_revoke: Callable[[], None] | None = None
        self._lapsed = False
        self._serial = count()
        self.consumer = client.consumer(settings, self, linger_ms, traced)

    def stands(self) -> dict[int, int]:
        """The next offset to read of each active partition."""
        return self.consumer.stands(sorted(self.active))

    def identity(self) -> object | None:
        """What proves to the broker that this member may commit; None while it is not in the group.

        Taken when it is needed and not once per assignment: a cooperative rebalance that moves nothing here still begins a
        new generation, without a word to anybody. The broker would take offsets without a generation from anyone.
        """
        return None if self._lapsed else self.consumer.identity()

    def take_lapse(self) -> bool:
        """Whether the group dropped this member, and what it holds may be out of date; asking settles it."""
        lapsed, self._lapsed = self._lapsed, False
        return lapsed

    def assigned(self, partitions: list[int]) -> None:
        """New partitions stand still until their state is here."""
        self._wait_for(partitions)

    def revoked(self, partitions: list[int]) -> None:
        """Commit while the partitions are still ours; their next owner gets them only when this returns."""
        try:
            if self.before_revoke is not None:
                self.before_revoke()
        finally:
            self._let_go(partitions)

    def lost(self, partitions: list[int]) -> None:
        """Another member may own them already: nothing of them may be committed any more."""
        self._lapsed = True
        self._let_go(partitions)

    def _let_go(self, partitions: Iterable[int]) -> None:
        self.gone += sorted(self.active.intersection(partitions))
        self.active.difference_update(partitions)
        for partition in partitions:
            self.waiting.pop(partition, None)

    def start_over(self) -> None:
        """Everything needs its state again."""
        self.consumer.pause(sorted(self.active))
        self._wait_for([*self.waiting, *self.active])
        self.active.clear()

    def activate(self, partition: int, offset: int) -> None:
        """Let the records of a restored partition flow, from `offset`."""
        self.consumer.flow(partition, offset)
        del self.waiting[partition]
        self.active.add(partition)

    def _wait_for(self, partitions: Iterable[int]) -> None:
        self.waiting |= {partition: next(self._serial) for partition in partitions}

    def close(self) -> None:
        """Stop without committing. A static member keeps its partitions until it is back or its session times out."""
        self.before_revoke = None
        self.consumer.close()
