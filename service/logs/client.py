"""What a Kafka log needs of a client: the seam behind which kafka-python and confluent-kafka can be exchanged.

A client says what went wrong in four words: Unreachable (another attempt may help), Unsettled (so it will), Denied, and any
other TickwatchError (a person has to act). What happens once in a while is asked through kafka-python with either: topics, who
has a name, where partitions end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from service.connection import KafkaSettings
from service.errors import TickwatchError
from service.logs import SCHEMA_HEADER, TRACE_HEADER, Records

Headers = Sequence[tuple[str, bytes | None]]
Change = tuple[int, bytes, bytes | memoryview | None]  # partition, key and value of a record of the changelog
CLIENTS = ("kafka-python", "confluent-kafka")
READ_BYTES = 2 * 1024 * 1024  # of the changelog a fetch, of which kafka-python holds ten; a larger record comes alone


class Rebalance(Protocol):
    """Hears which partitions of the topic of ticks come and go, perhaps on another thread while `poll` waits."""

    def assigned(self, partitions: list[int]) -> None:
        """They are ours, and stand still until `flow` is called."""

    def revoked(self, partitions: list[int]) -> None:
        """They are ours until this returns."""

    def lost(self, partitions: list[int]) -> None:
        """The group has dropped this member: others may have them already."""


class Consumer(Protocol):
    """A static member of the group that reads the topic of ticks, read_committed. It never commits."""

    def poll(self, timeout_ms: int, max_records: int) -> Records:
        """What is there of the partitions that flow; joins the group as needed. What Rebalance raises passes through."""

    def pause(self, partitions: Sequence[int]) -> None:
        """Let partitions stand still, those of them that are held; what was fetched and not polled is forgotten."""

    def flow(self, partition: int, offset: int) -> None:
        """Let the records of a partition come, from `offset`."""

    def committed(self, partition: int, timeout_ms: int) -> int | None:
        """The group's offset once no transaction is open on it. Raises Unsettled if one is for longer than `timeout_ms`."""

    def stands(self, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset to poll, where it is known."""

    def ends(self, partitions: Sequence[int]) -> dict[int, int]:
        """Where partitions ended when they were last fetched, where it is known."""

    def heard(self) -> bool:
        """Whether the group's broker has answered lately, or was never asked."""

    def member_id(self) -> str:
        """What the group's broker calls this member, "" if it does not know it."""

    def identity(self) -> object | None:
        """What proves to the broker that this member may commit now; None while it is not in the group."""

    def close(self) -> None:
        """Stop, and stay in the group until the session times out."""


class Producer(Protocol):
    """One transactional producer; the constructor aborts what another one of its name left open.

    Or one without transactions, idempotent, which has only `send`, `flush` and `discard`: readers see its records at once, in the
    order of each partition and none twice. After any error only `discard` may follow.
    """

    def begin(self) -> None:
        """Begin a transaction."""

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Send a record, in the transaction if there is one."""

    def flush(self, timeout_s: float) -> None:
        """Wait until the broker has every record; raises if it has not."""

    def add_offsets(self, offsets: dict[int, int], identity: object) -> None:
        """Add the next offsets to read of the topic of ticks, by partition, in the name of a consumer."""

    def commit(self) -> None:
        """Commit the transaction."""

    def discard(self) -> None:
        """Give up whatever it holds, and its connections, without waiting for anybody."""


class Reader(Protocol):
    """Reads partitions of the changelog from their start, read_committed."""

    def end(self, partition: int) -> int:
        """The true end of a partition, open transactions included, which only a read_uncommitted client sees."""

    def first_tick(self, partition: int) -> int:
        """The first offset that is left of a partition of ticks."""

    def start(self, partition: int) -> None:
        """Begin with a partition."""

    def poll(self, timeout_ms: int) -> list[Change]:
        """The next ones, in order within a partition."""

    def stands(self, partition: int) -> int | None:
        """Everything committed before this offset was polled."""

    def stop(self, partition: int) -> None:
        """No more of a partition."""

    def close(self) -> None:
        """Give connections and memory back."""


@dataclass(frozen=True)
class Client:
    """One of them: how to make its parts.

    The consumer has subscribed, has records linger for so many milliseconds, and brings TRACE_HEADER if that is asked for. The
    outlet is a producer without transactions. `linger_ms` is how long records linger if nobody says: the more a fetch costs, the
    longer.
    """

    consumer: Callable[[KafkaSettings, Rebalance, int, bool], Consumer]
    producer: Callable[[KafkaSettings], Producer]
    outlet: Callable[[KafkaSettings], Producer]
    reader: Callable[[KafkaSettings], Reader]
    linger_ms: int


def carried(headers: Sequence[Headers | None], *, traced: bool) -> tuple[list[bytes | None], list[bytes | None]]:
    """What the headers of records say: Records.schema and Records.trace."""
    if not any(headers):
        return [], []
    found = [dict(of_record or ()) for of_record in headers]
    trace = [of_record.get(TRACE_HEADER) for of_record in found] if traced else []
    return [of_record.get(SCHEMA_HEADER) for of_record in found], trace


def find(name: str) -> Client:
    """The client of this name. Raises TickwatchError if there is none, or it is not installed."""
    if name == "kafka-python":
        from service.logs import kafka_python  # noqa: PLC0415

        return Client(
            kafka_python.Consumer,
            kafka_python.Producer,
            partial(kafka_python.Producer, transactional=False),
            kafka_python.Reader,
            linger_ms=10,
        )
    if name == "confluent-kafka":
        try:
            from service.logs import confluent  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise TickwatchError(f"client {name} is not installed: pip install 'tickwatch[fast]'") from error
        return Client(
            confluent.Consumer,
            confluent.Producer,
            partial(confluent.Producer, transactional=False),
            confluent.Reader,
            linger_ms=5,
        )
    raise TickwatchError(f"client {name!r} is unknown; known are {' and '.join(CLIENTS)} (--client)")
