"""What the parts of the benchmark share: how big it is, how it tells where it stands, and its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Row = dict[str, str | float | int | None]  # one line of a table, by column; None is what was not measured
Told = Callable[[str, int, int], None]  # (what is measured now, how many measurements are done, of how many)


@dataclass(frozen=True)
class Size:
    """`ticks` of a run, `streams` of the loads, `seconds` of a run at each of the `rates` (ticks/s), at most `many` streams."""

    ticks: int
    streams: int
    seconds: float
    many: int
    cells: Sequence[str]
    rates: Sequence[int]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table; numbers stand right, with three digits."""
    if not rows:
        return ""
    header = list(rows[0])
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(_rule(rows, name) for name in header)}|"]
    lines += [f"| {' | '.join(_cell(row[name]) for name in header)} |" for row in rows]
    return "\n".join(lines)


def _rule(rows: Sequence[Row], name: str) -> str:
    return "---" if any(isinstance(row[name], str) for row in rows) else "---:"


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return value if isinstance(value, str) else f"{value:,}"
