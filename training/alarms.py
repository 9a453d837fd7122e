"""Counting false alarms as a person would: once per while, and again and again while one lasts."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

COOL_DOWN: Final = 50  # rows within which alarms count once


def false_alarms(alert: NDArray[np.bool_], normal: NDArray[np.bool_]) -> float:
    """False alarms per 100,000 normal ticks; both masks are bool [N]."""
    return count(np.flatnonzero(alert & normal), len(alert)) * 1e5 / int(normal.sum())


def count(at: NDArray[np.intp], limit: int) -> int:
    """Alarms at the rows `at`, COOL_DOWN apart; stops counting beyond `limit`."""
    count = i = 0
    while i < len(at) and count <= limit:
        count += 1
        i = int(np.searchsorted(at, at[i] + COOL_DOWN))
    return count
