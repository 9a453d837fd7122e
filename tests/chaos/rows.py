"""Reads state rows from records of the changelog topic, by the layout in docs/guarantees.md and nothing else."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

BLOCK_ROWS = 1024
BLOCK_BYTES = 4 * 1024 * 1024


@dataclass
class Partition:
    """What the records read so far say of one partition: rows by stream, the layout's name, the next input offset."""

    layout: str = ""
    next_offset: int = 0
    names: dict[int, str] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)

    def take(self, key: bytes, value: bytes) -> None:
        """Apply one record; they come in the order of their offsets."""
        magic, layout_bytes, text_bytes, n, row_bytes, next_offset, _ = struct.unpack_from("<4sHIIIqq", value)
        if magic != b"TWC1":
            raise ValueError(f"magic is {magic!r}")
        at = 34
        self.layout, at = value[at : at + layout_bytes].decode(), at + layout_bytes
        lengths, at = struct.unpack_from(f"<{n}H", value, at), at + 2 * n
        text, at = value[at : at + text_bytes].decode(), at + text_bytes
        if key.startswith(b"D"):
            numbers, at = list(struct.unpack_from(f"<{n}I", value, at)), at + 4 * n
        else:
            first = int(key[1:]) * max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
            numbers = list(range(first, first + n))
        if len(value) != at + n * row_bytes:
            raise ValueError(f"{len(value)} bytes, expected {at + n * row_bytes}")
        begin = 0
        for i, number in enumerate(numbers):
            name, begin = text[begin : begin + lengths[i]], begin + lengths[i]
            if self.names.setdefault(number, name) != name:
                raise ValueError(f"number {number} is {self.names[number]} and {name}")
            self.rows[name] = value[at + i * row_bytes : at + (i + 1) * row_bytes]
        self.next_offset = next_offset
