"""The seam between whatever makes ticks for `tickwatch run` and the log that they are appended to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Chunk:
    """Some records in order, and the feed's position after the last of them.

    `values` are encoded ticks as they go into the log, `position` is opaque: a feed built with it goes on right there.
    `notes` are sentences for the person who watches, such as the announcement of a simulated fault.
    """

    values: list[bytes]
    position: bytes
    notes: list[str] = field(default_factory=list)


class Feed(Protocol):
    """A finite or endless source of ticks in the order in which a market would have sent them."""

    total: int | None  # ticks from the very start to the end, where that is known
    start_ts: int  # event time at which this feed begins or goes on, nanoseconds since 1970

    def read(self, until_ts: int | None, limit: int) -> Chunk | None:
        """At most `limit` ticks with event time up to `until_ts` (any, if None); None once the feed has ended."""
