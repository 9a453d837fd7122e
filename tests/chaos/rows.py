"""Reads state rows from records of the changelog topic, by the layout in docs/guarantees.md and nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

HEAD = struct.Struct("<4sHIIIIq")


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

    def take(self, value: bytes | None) -> None:
        """Apply one record; they come in the order of their offsets."""
        if value is None:
            return
        magic, layout_bytes, text_bytes, n, row_bytes, epoch, next_offset = HEAD.unpack_from(value)
        if magic != b"TWC3":
            raise ValueError(f"unknown format {magic!r}")
        at = HEAD.size
        if epoch > self.epoch:
            self.epoch, self.numbers = epoch, {}
        elif epoch < self.epoch:
            return
        self.layout, at = value[at : at + layout_bytes].decode(), at + layout_bytes
        lengths, at = struct.unpack_from(f"<{n}H", value, at), at + 2 * n
        text, at = value[at : at + text_bytes].decode(), at + text_bytes
        numbers, at = struct.unpack_from(f"<{n}I", value, at), at + 4 * n
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
