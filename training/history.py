"""History to learn from: ticks from files or elsewhere, stream by stream, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import TickwatchError
from service.files import read_ticks, tick_files
from service.ticks import NUMBERS, Ticks


@dataclass(frozen=True)
class History:
    """Ticks by stream, each stream's in the order of its files sorted by name; `rejected` rows could not be read.

    `origin` tells in words where they are from, and names no place of this machine. `fingerprint` is the SHA-256 of the
    streams' names and columns: the same ticks have the same one, however they were cut into files or chunks.
    """

    streams: dict[str, Ticks]
    rejected: int
    fingerprint: str
    origin: str

    @property
    def ticks(self) -> int:
        """How many there are in all."""
        return sum(map(len, self.streams.values()))


def read_history(path: Path) -> History:
    """Every tick of a file, or of the tick files in a folder. Raises TickwatchError where there is none."""
    rejected = 0
    paths = tick_files(path)

    def chunks() -> Iterable[Ticks]:
        nonlocal rejected
        for file in paths:
            for chunk in read_ticks(file):
                rejected += len(chunk.rejects)
                yield chunk.ticks

    streams = gather(chunks())
    if not streams:
        raise TickwatchError(f"{path} holds {rejected:,} rows, none of them a tick; `tickwatch replay` says why")
    origin = f"{len(paths)} tick file{'s' * (len(paths) > 1)}"
    return History(streams, rejected, fingerprint(streams), origin)


def gather(chunks: Iterable[Ticks]) -> dict[str, Ticks]:
    """The ticks of all chunks by stream, sorted by name; a stream's ticks stay in order."""
    found: dict[str, list[Ticks]] = defaultdict(list)
    for chunk in chunks:
        for name, ticks in _by_stream(chunk).items():
            found[name].append(ticks)
    return {name: _join(name, found.pop(name)) for name in sorted(found)}


def _by_stream(ticks: Ticks) -> dict[str, Ticks]:
    code = {name: i for i, name in enumerate(dict.fromkeys(ticks.stream))}
    if len(code) <= 1:
        return dict.fromkeys(code, ticks)
    codes = np.fromiter(map(code.__getitem__, ticks.stream), np.intp, len(ticks))
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return {name: ticks.take(part) for name, part in zip(code, parts, strict=True)}


def _join(name: str, parts: list[Ticks]) -> Ticks:
    def column(number: str) -> Any:
        return np.concatenate([getattr(part, number) for part in parts])

    numbers = {number: column(number) for number in ("partition", "offset", "ts", *NUMBERS, "seq")}
    return Ticks(stream=[name] * len(numbers["ts"]), **numbers)


def fingerprint(streams: dict[str, Ticks]) -> str:
    """SHA-256 of the streams' names and columns, 64 hex digits."""
    digest = hashlib.sha256()
    for name, ticks in streams.items():
        digest.update(f"{name}\0{len(ticks)}\0".encode())
        for numbers in (ticks.ts, ticks.seq):
            digest.update(numbers.astype("<i8").tobytes())
        for number in NUMBERS:
            values = getattr(ticks, number)
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())  # one NaN for all NaNs
    return digest.hexdigest()
