"""Reads state rows from records of the changelog topic, by the layout in docs/guarantees.md and nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

HEAD = struct.Struct("<4sHIIIIqq")
BLOCK_ROWS = 1024
BLOCK_BYTES = 4 * 1024 * 1024


@dataclass
class Partition:
    """What the records read so far say of one partition: rows by number, the layout's name, the next input offset."""

    layout: str = ""
    next_offset: int = 0
    epoch: int = 0
    numbers: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    def rows(self) -> dict[str, bytes]:
        """The rows by stream."""
        found = dict(self.numbers.values())
        if len(found) != len(self.numbers):
            raise ValueError("a stream has two numbers")
        return found

    def take(self, key: bytes, value: bytes | None) -> None:
        """Apply one record; they come in the order of their offsets."""
        if value is None:
            return
        magic, layout_bytes, text_bytes, n, row_bytes, epoch, next_offset, _ = HEAD.unpack_from(value)
        if magic != b"TWC2":
            raise ValueError(f"unknown format {magic!r}")
        at = HEAD.size
        if epoch > self.epoch:
            self.epoch, self.numbers = epoch, {}
        elif epoch < self.epoch:
            return
        self.layout, at = value[at : at + layout_bytes].decode(), at + layout_bytes
        lengths, at = struct.unpack_from(f"<{n}H", value, at), at + 2 * n
        text, at = value[at : at + text_bytes].decode(), at + text_bytes
        if key.startswith(b"D"):
            numbers, at = list(struct.unpack_from(f"<{n}I", value, at)), at + 4 * n
        else:
            first = int(key[1:]) * max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
            numbers = list(range(first, first + n))
        begin = 0
        for number, length in zip(numbers, lengths, strict=True):
            name, begin = text[begin : begin + length], begin + length
            self.numbers.pop(number, None)
            if name:
                self.numbers[number] = name, value[at : at + row_bytes]
                at += row_bytes
        if at != len(value):
            raise ValueError(f"{len(value)} bytes, expected {at}")
        self.next_offset = next_offset
