"""The picture of docs/performance.md: what the parts of the benchmark measured last."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import Row

OURS, THEIRS, LATE = "#1f6feb", "#9aa4b2", "#d0d7de"


def draw(results: Path, picture: Path) -> None:
    """Draw what `results` holds of costs, latencies and growth."""
    panels = {"throughput": _costs, "latency": _latencies, "streams": _growth}
    found = {part: results / f"{part}.json" for part in panels if (results / f"{part}.json").exists()}
    if not found:
        return
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 2.6 * len(found)), layout="constrained")
        axes = figure.subplots(len(found), squeeze=False)[:, 0]
        for ax, (part, file) in zip(axes, found.items(), strict=True):
            rows: list[Row] = json.loads(file.read_text())
            panels[part](ax, rows)
        figure.savefig(picture, dpi=120, metadata={"Software": None})


def _label(row: Row) -> str:
    return f"{row['system']}, {row['client']} ({row['guarantee']})"


def _bars(ax: Axes, rows: list[Row], column: str, colour: str | None = None) -> None:
    colours = [colour or (OURS if row["system"] == "tickwatch" else THEIRS) for row in rows]
    bars = ax.barh([_label(row) for row in rows], [float(row[column] or 0) for row in rows], color=colours)
    ax.bar_label(bars, fmt="%.0f", padding=3)
    ax.invert_yaxis()


def _costs(ax: Axes, rows: list[Row]) -> None:
    load, cell = rows[len(rows) // 2]["load"], rows[0]["cell"]  # the Zipf load stands in the middle
    _bars(ax, [row for row in rows if (row["load"], row["cell"]) == (load, cell)], "us, all")
    ax.set_title(f"CPU microseconds per tick: {load}, {cell}", loc="left")


def _latencies(ax: Axes, rows: list[Row]) -> None:
    kept = [row for row in rows if row["ticks/s"] == rows[0]["ticks/s"] and row["p99 ms"] is not None]
    _bars(ax, kept, "p99 ms", LATE)
    ax.invert_yaxis()
    _bars(ax, kept, "p50 ms")
    ax.set_title(
        f"milliseconds from tick to committed score at {rows[0]['ticks/s']:,} ticks/s, p50 and p99", loc="left"
    )


def _growth(ax: Axes, rows: list[Row]) -> None:
    ax.plot(
        [float(row["streams"] or 0) for row in rows], [float(row["us per tick"] or 0) for row in rows], "o-", color=OURS
    )
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("streams, equally busy")
    ax.set_title("tickwatch: CPU microseconds per tick", loc="left")
