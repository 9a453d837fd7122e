"""How the histories of many streams run side by side: cut into chunks, laid on a tape, the tape cut into lanes.

Chunks of T ticks that follow each other in a stream lie end to end on the tape. One column of B chunks, one from each
lane, is one step of the optimiser, and the state with which a lane ends its chunk is that in which it begins the next.
A lane's state starts at zero, cold, at the tape's cuts and wherever the tape goes on with other ticks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import TickwatchError

SHORTEST_LANE = 16  # chunks; a short history runs in fewer lanes rather than in shorter ones


@dataclass(frozen=True)
class Tape:
    """J columns of B chunks: where each starts in the joined streams, whose it is, and if its state starts cold."""

    start: NDArray[np.int64]  # [J, B]
    stream: NDArray[np.int64]  # [J, B]
    cold: NDArray[np.bool_]  # [J, B]


def tape(lengths: list[int], chunk: int, lanes: int, generator: np.random.Generator | None = None) -> Tape:
    """Lay streams of these lengths, joined end to end, on a tape of whole chunks and cut it into at most `lanes` lanes.

    Without a generator every chunk comes once and in order, for validation. With one, for training, the tape is as
    long, but a stream's share grows with the square root of its length, so that the busiest does not drown the others;
    where a stream starts, and how its ticks fall into chunks, is drawn anew. Raises TickwatchError where no stream
    fills a chunk.
    """
    sizes = np.array(lengths, np.int64)
    offsets = np.cumsum(sizes) - sizes
    usable = np.flatnonzero(sizes >= chunk)
    if not len(usable):
        raise TickwatchError(
            f"history is too short: the longest stream leaves {sizes.max(initial=0)} ticks to train or to validate on, "
            f"and {chunk} are needed at least; give more ticks"
        )
    total = int((sizes[usable] // chunk).sum())
    shares = np.sqrt(sizes[usable]) / np.sqrt(sizes[usable]).sum()
    starts, streams, colds = [], [], []
    for s, share in zip(usable, shares, strict=True):
        if generator is None:
            phase, run = 0, np.arange(sizes[s] // chunk)
        else:
            phase = generator.integers(min(chunk, sizes[s] - chunk + 1))
            chunks = (sizes[s] - phase) // chunk
            run = (generator.integers(chunks) + np.arange(math.ceil(total * share))) % chunks
        starts.append(offsets[s] + phase + run * chunk)
        streams.append(np.full(len(run), s))
        colds.append(np.diff(run, prepend=-2) != 1)
    joined = [np.concatenate(column) for column in (starts, streams, colds)]
    lanes = max(1, min(lanes, len(joined[0]) // SHORTEST_LANE))
    steps = len(joined[0]) // lanes
    start, stream, cold = (column[: lanes * steps].reshape(lanes, steps).T for column in joined)
    cold[0] = True
    return Tape(start, stream, cold)
