"""How the state of one input partition is laid out in the partition of the same number of a compacted topic.

Every stream has a number, given when it is first seen and kept until the stream is removed; then another one may get it. A
number that nobody has is written without name and row: a removal is a value like any other.

A commit writes *delta blocks* with the rows that it changed, keyed `D{place}` where places form a ring, and some *snapshot
blocks* with all rows of BLOCK consecutive numbers, keyed `B{number // BLOCK}`. A place of the ring is written again only when
each block that its old delta touched has been snapshotted since (or is, in the same transaction). So whatever compaction
removes, the latest value of a row is in the latest record of some key, and applying records in offset order ends with it.
Snapshots are written at the pace of the deltas, oldest
first: the topic's size stays near twice the state's and so does the volume written. While all deltas since them are no more
than LIGHT rows they wait, so that the state of a few busy streams is not written twice.

The changelog lives in epochs. Whoever gives up the state of another layout begins a new epoch, and its first commit voids all
records before it, whatever compaction leaves of them; the tombstones that go with it only let the broker forget them.

Packed blocks restored 100,000 streams eight times faster than one record a stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError

BLOCK = 1024
BLOCK_BYTES = 4 * 1024 * 1024  # of rows, so that a record with the longest names stays below RECORD_BYTES
RECORD_BYTES = 8 * 1024 * 1024
RING = 4096
LIGHT = 8192  # rows: 14 MB, read back in a tenth of a second

# magic and version, length of the layout text, bytes of the names, names, bytes per row, epoch, next input offset, sequence
HEAD = struct.Struct("<4sHIIIIqq")
MAGIC = b"TWC2"


class ForeignLayout(TickwatchError):
    """The changelog was written by a model with another layout of state rows."""


class Changelog:
    """Numbers, ring and snapshots of one partition. `layout` names the meaning of a row of `row_bytes` bytes.

    A new one is `read` through all records of the changelog partition in offset order, then `finish`ed, then `write` gives the
    records of each commit. `names` are the streams by number, "" where nobody has it; `next_offset` is the input offset after
    the last commit. State of another layout is refused, or with `fresh` given up.
    """

    def __init__(
        self,
        layout: str,
        row_bytes: int,
        block: int = BLOCK,
        ring: int = RING,
        light: int = LIGHT,
        *,
        fresh: bool = False,
    ) -> None:
        self.layout = layout
        self._layout = layout.encode()
        self._row_bytes = row_bytes
        self._block = max(1, min(block, BLOCK_BYTES // max(1, row_bytes)))
        self._ring_size = ring
        self._light = light
        self._fresh = fresh
        self._void: set[bytes] = set()  # keys whose last record is of an earlier epoch
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        """Start an epoch with nothing."""
        self.names: list[str | None] = []  # None: not read yet
        self.next_offset: int | None = None
        self._epoch = epoch
        self._foreign: str | None = None  # layout of this epoch, if it is another
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []
        self._sequence = 0
        self._places: dict[int, int] = {}  # place -> sequence of its delta, oldest first
        self._dirty: dict[int, int] = {}  # block -> sequence of its oldest delta since its snapshot, oldest first
        self._credit = 0
        self._keys: set[bytes] = set()  # read in this epoch

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self,
        next_offset: int,
        streams: list[str],
        rows: NDArray[np.uint8],
        removed: list[str],
        current: Callable[[list[str]], NDArray[np.uint8]],
    ) -> list[tuple[bytes, bytes | None]]:
        """The (key, value) records of one commit, to be sent in this order in one transaction.

        `rows` uint8 [n, row_bytes] are the changed rows of `streams`, `removed` are other streams; `current` gives the rows of
        any streams as of this commit. There is always a record, so that the changelog knows `next_offset` too.
        """
        self.next_offset = next_offset
        known = list(map(self._numbers.get, streams))
        if None in known:
            known = list(map(self._number, streams))
        named = np.array(known, np.uint32)
        gone = [self._numbers.pop(name) for name in removed if name in self._numbers]  # or it came and went since
        for number in gone:
            self.names[number] = ""
        self._free += gone  # from the next commit on
        numbers = np.concatenate([named, np.array(gone, np.uint32)])
        names = streams + [""] * len(gone)
        records: list[tuple[bytes, bytes | None]] = []
        due: dict[int, None] = {}
        for start in range(0, max(1, len(names)), self._block):
            part = slice(start, start + self._block)
            self._sequence += 1
            place = self._take_place(due)
            self._touch(numbers[part])
            records.append((b"D%d" % place, self._encode(names[part], rows[part], numbers[part])))
        self._credit += len(names)
        times = max(1, self._light // max(1, len(self.names)))  # that all rows may change before their snapshots
        while self._dirty and self._credit >= times * self._size(next(iter(self._dirty))):
            self._credit -= times * self._size(self._snapshot_oldest(due))
        if not self._dirty:
            self._credit = 0
        for block in due:
            names = [name or "" for name in self.names[block * self._block : (block + 1) * self._block]]
            held = current(list(filter(None, names)))
            records.append((b"B%d" % block, self._encode(names, held, np.zeros(0, np.uint32))))
        records += [(key, None) for key in sorted(self._void - {key for key, _ in records})]
        self._void = set()
        return records

    def _number(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            if self._free:
                number = self._free.pop()
                self.names[number] = name
            else:
                number = len(self.names)
                self.names.append(name)
            self._numbers[name] = number
        return number

    def _size(self, block: int) -> int:
        return min(self._block, len(self.names) - block * self._block)

    def _take_place(self, due: dict[int, None]) -> int:
        """A place for the delta of the present sequence; blocks that its old delta needs become due for a snapshot."""
        if self._places:
            place, sequence = next(iter(self._places.items()))
            full = len(self._places) >= self._ring_size
            while full and self._needed(sequence):
                self._snapshot_oldest(due)
            if not self._needed(sequence):
                del self._places[place]
                self._places[place] = self._sequence
                return place
        place = len(self._places)
        self._places[place] = self._sequence
        return place

    def _needed(self, sequence: int) -> bool:
        return bool(self._dirty) and next(iter(self._dirty.values())) <= sequence

    def _snapshot_oldest(self, due: dict[int, None]) -> int:
        block = next(iter(self._dirty))
        del self._dirty[block]
        due[block] = None
        return block

    def _touch(self, numbers: NDArray[np.uint32]) -> None:
        for block in np.unique(numbers // self._block).tolist():
            self._dirty.setdefault(block, self._sequence)

    def _encode(self, names: list[str], rows: NDArray[np.uint8], numbers: NDArray[np.uint32]) -> bytes:
        text = "".join(names).encode("utf-8", "surrogatepass")
        lengths = np.array([len(name) for name in names], np.uint16)
        head = HEAD.pack(
            *(MAGIC, len(self._layout), len(text), len(names), self._row_bytes),
            *(self._epoch, self.next_offset, self._sequence),
        )
        expected = (int(np.count_nonzero(lengths)), self._row_bytes)
        if rows.shape != expected or rows.dtype != np.uint8:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, expected uint8 {expected}")
        return b"".join(
            (head, self._layout, lengths.tobytes(), text, numbers.tobytes(), np.ascontiguousarray(rows).data)
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, key: bytes, value: bytes | memoryview | None) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Take in one record; returns the numbers uint32 [n] and rows uint8 [n, row_bytes] that it sets."""
        nothing = np.zeros(0, np.uint32), np.zeros((0, self._row_bytes), np.uint8)
        if value is None:
            self._void.discard(key)
            return nothing
        if value[: len(MAGIC)] != MAGIC:
            raise ForeignLayout("an unknown format")
        _, layout_bytes, text_bytes, n, row_bytes, epoch, next_offset, sequence = HEAD.unpack_from(value)
        if epoch > self._epoch:
            self._void |= self._keys
            self._begin(epoch)
        if epoch < self._epoch:
            self._void.add(key)
            return nothing
        self._void.discard(key)
        self._keys.add(key)
        at = HEAD.size + layout_bytes
        layout = value[HEAD.size : at]
        if layout != self._layout or row_bytes != self._row_bytes:
            self._foreign = str(layout, errors="replace")
            self.next_offset = next_offset
            return nothing
        lengths = np.frombuffer(value, np.uint16, n, at)
        text = str(value[at + 2 * n : at + 2 * n + text_bytes], "utf-8", "surrogatepass")
        at += 2 * n + text_bytes
        place = int(key[1:])
        self.next_offset, self._sequence = next_offset, max(sequence, self._sequence)
        if key[:1] == b"D":
            numbers = np.frombuffer(value, np.uint32, n, at)
            at += 4 * n
            self._places.pop(place, None)
            self._places[place] = sequence
            for block in np.unique(numbers // self._block).tolist():
                self._dirty.setdefault(block, sequence)
        else:
            numbers = np.arange(place * self._block, place * self._block + n, dtype=np.uint32)
            self._dirty.pop(place, None)
        self._name(numbers, lengths, text)
        held = numbers[lengths > 0]
        return held, np.frombuffer(value, np.uint8, len(held) * row_bytes, at).reshape(len(held), row_bytes)

    def _name(self, numbers: NDArray[np.uint32], lengths: NDArray[np.uint16], text: str) -> None:
        top = int(numbers.max()) + 1 if len(numbers) else 0
        self.names += [None] * (top - len(self.names))
        names, end = self.names, 0
        for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
            start, end = end, end + length
            name = names[number]
            if name is None or len(name) != length or name != text[start:end]:  # else keep the string that is there
                names[number] = text[start:end]

    def finish(self) -> None:
        """All records are read: get ready to write. Raises ForeignLayout, or TickwatchError if a stream is missing."""
        if self._foreign is not None:
            if not self._fresh:
                raise ForeignLayout(self._foreign)
            next_offset = self.next_offset
            self._void |= self._keys
            self._begin(self._epoch + 1)
            self.next_offset = next_offset
        self._numbers = {name: number for number, name in enumerate(self.names) if name}
        self._free = [number for number, name in enumerate(self.names) if name == ""]
        if len(self._numbers) + len(self._free) != len(self.names):
            raise TickwatchError(f"the changelog misses some of its {len(self.names)} streams; its topic lost records")
