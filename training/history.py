"""History to learn from: the ticks of every file of a folder, stream by stream, and a fingerprint of them all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
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

    `fingerprint` is the SHA-256 of the streams' names and columns: the same ticks have the same one, however they were
    cut into files or chunks.
    """

    streams: dict[str, Ticks]
    rejected: int
    fingerprint: str


def read_history(path: Path) -> History:
    """Every tick of a file, or of the tick files in a folder. Raises TickwatchError where there is none."""
    found: dict[str, list[Ticks]] = defaultdict(list)
    rejected = 0
    for file in tick_files(path):
        for chunk in read_ticks(file):
            rejected += len(chunk.rejects)
            for name, ticks in _by_stream(chunk.ticks).items():
                found[name].append(ticks)
    if not found:
        raise TickwatchError(f"{path} holds {rejected:,} rows, none of them a tick; `tickwatch replay` says why")
    streams = {name: _join(found[name]) for name in sorted(found)}
    return History(streams, rejected, _fingerprint(streams))


def _by_stream(ticks: Ticks) -> dict[str, Ticks]:
    code = {name: i for i, name in enumerate(dict.fromkeys(ticks.stream))}
    if len(code) <= 1:
        return dict.fromkeys(code, ticks)
    codes = np.fromiter(map(code.__getitem__, ticks.stream), np.intp, len(ticks))
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return {name: ticks.take(part) for name, part in zip(code, parts, strict=True)}


def _join(parts: list[Ticks]) -> Ticks:
    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    numbers = {name: column(name) for name in ("partition", "offset", "ts", *NUMBERS, "seq")}
    return Ticks(stream=[name for part in parts for name in part.stream], **numbers)


def _fingerprint(streams: dict[str, Ticks]) -> str:
    digest = hashlib.sha256()
    for name, ticks in streams.items():
        digest.update(f"{name}\0{len(ticks)}\0".encode())
        digest.update(ticks.ts.astype("<i8").tobytes())
        for number in NUMBERS:
            values = getattr(ticks, number)
            digest.update(np.where(np.isnan(values), np.nan, values).astype("<f8").tobytes())  # one NaN for all NaNs
    return digest.hexdigest()
