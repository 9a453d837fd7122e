"""A table in memory of its own, which grows without a copy of what is there and takes pages only as rows are written."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Table:
    """`rows`, of a dtype and `width` numbers each; zeros until they are written.

    `numpy.ndarray.resize` would write those zeros, and touch each page of 4 KiB, which took half of a restore. Here Linux
    moves pages (mremap), and hands out those of 2 MiB. A view of `rows` that outlives `grow` goes on seeing the old table.
    """

    def __init__(self, rows: int, dtype: DTypeLike, width: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._width = width
        self._memory = self._mapped(rows)
        self.rows: NDArray[Any] = self._view(rows)

    def _bytes(self, rows: int) -> int:
        return max(1, rows * self._dtype.itemsize * math.prod(self._width))

    def _mapped(self, rows: int) -> mmap.mmap:
        return mmap.mmap(-1, self._bytes(rows), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _view(self, rows: int) -> NDArray[Any]:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        count = rows * math.prod(self._width)
        return np.frombuffer(self._memory, self._dtype, count).reshape(rows, *self._width)

    def grow(self, rows: int) -> None:
        """Add rows of zeros until there are so many."""
        self.rows = np.empty(0)
        try:
            self._memory.resize(self._bytes(rows))
        except (BufferError, SystemError):  # somebody still looks at it; or a system that cannot move pages
            before, self._memory = self._memory, self._mapped(rows)
            with memoryview(before) as held:
                self._memory[: len(held)] = held
        self.rows = self._view(rows)
