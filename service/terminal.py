"""The view of `tickwatch run` in the terminal: calm and of constant height; in a pipe, a few plain lines."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.alerts import Alert

REFRESH_SECONDS = 0.25
PLAIN_SECONDS = 5.0
SMOOTHING_SECONDS = 3.0
ALERT_LINES = 8
NOTE_LINES = 3
GLARING = 6.0  # score from which an alert is red: one tick in a million


@dataclass(frozen=True)
class Snapshot:
    """Where the run stands: counts, `seconds` of its own clock, and `lag`, ticks read but not yet scored."""

    ticks: int
    streams: int
    alerts: int
    rejected: int
    seconds: float
    lag: int


def summary_line(ticks: int, streams: int, alerts: int, seconds: float) -> str:
    """The last line of every run, made for people and for scripts."""
    return f"summary: ticks={ticks} streams={streams} alerts={alerts} seconds={seconds:.1f}"


def _clock(ts: int) -> str:
    return datetime.fromtimestamp(ts // 1_000_000_000, timezone.utc).strftime("%H:%M:%S")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class View:
    """Shows snapshots, alerts and notes on `console` while it is open as a context manager.

    `total` is the number of ticks where that is known; `links` tell where pages and files are. Whatever a feed
    can name is shown as plain text: no markup, no control characters. Time is that of the snapshots.
    """

    def __init__(self, console: Console, total: int | None, links: list[str]) -> None:
        self._console = console
        self._total = total
        self._links = [self._plain(link) for link in links]
        self._now = Snapshot(0, 0, 0, 0, 0.0, 0)
        self._shown = 0.0  # time of the last refresh
        self._measured: Snapshot | None = None
        self._rate = 0.0
        self._incidents: dict[str, Alert] = {}
        self._notes: deque[tuple[float, str]] = deque(maxlen=NOTE_LINES)
        # FORCE_COLOR makes rich call a pipe a terminal, so the file itself is asked too
        terminal = console.is_terminal and console.file.isatty() and not console.is_dumb_terminal
        drawable = terminal and not console.options.ascii_only
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop") if drawable else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._live.update(self._screen(), refresh=True)
        else:
            for link in self._links:
                self._line(link)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._screen(), refresh=True)
            self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Show `snapshot`, as soon as the last refresh is long enough ago."""
        self._now = snapshot
        self._measured = self._measured or snapshot
        if snapshot.seconds - self._shown < (PLAIN_SECONDS if self._live is None else REFRESH_SECONDS):
            return
        self._shown = snapshot.seconds
        self._measured = self._measure(self._measured, snapshot)
        if self._live is None:
            self._line(self._status())
        else:
            self._live.update(self._screen(), refresh=True)

    def alert(self, alert: Alert) -> None:
        """Show an alert; of one incident, the most improbable."""
        if self._live is None and alert.phase == "opened":
            self._line(f"alert: {_clock(alert.ts)} {alert.stream} score {alert.score:.1f}: {_why(alert)}")
        shown = self._incidents.get(alert.incident)
        if shown is None or alert.score > shown.score:
            self._incidents[alert.incident] = alert
        if len(self._incidents) > ALERT_LINES:
            del self._incidents[next(iter(self._incidents))]

    def note(self, text: str) -> None:
        """Show an announcement."""
        self._notes.append((self._now.seconds, self._plain(text)))
        if self._live is None:
            self._line(text)

    def _plain(self, text: str) -> str:
        encoding = self._console.encoding
        printable = "".join(c if c.isprintable() else "?" for c in text)
        return printable.encode(encoding, "replace").decode(encoding)

    def _line(self, text: str) -> None:
        self._console.out(self._plain(text), highlight=False)

    def _measure(self, before: Snapshot, now: Snapshot) -> Snapshot:
        """Fold the ticks since `before` into the smoothed rate."""
        elapsed = now.seconds - before.seconds
        if elapsed > 0.0:
            weight = 1.0 - math.exp(-elapsed / SMOOTHING_SECONDS) if self._rate else 1.0
            self._rate += weight * ((now.ticks - before.ticks) / elapsed - self._rate)
        return now

    def _remaining(self, total: int) -> str:
        left = max(0, total - self._now.ticks)
        share = min(1.0, self._now.ticks / max(1, total))
        return f"{share:4.0%} {_span(left / self._rate) if self._rate else '-:--:--'} left"

    def _status(self) -> str:
        now = self._now
        progress = f" {self._remaining(self._total).strip()}" if self._total is not None else ""
        return (
            f"{_span(now.seconds)} ticks={now.ticks} ticks/s={self._rate:.0f} streams={now.streams} "
            f"alerts={now.alerts} rejected={now.rejected} lag={now.lag}{progress}"
        )

    def _screen(self) -> RenderableType:
        parts: list[RenderableType] = [self._counters()]
        if self._total is not None:
            parts.append(self._progress(self._total))
        room = self._console.height - len(self._links) - NOTE_LINES - 8
        parts += [Text(), self._alerts(max(1, min(ALERT_LINES, room))), Text(), self._announcements(), Text()]
        parts += [Text(link, style="dim", overflow="fold") for link in self._links]
        return Group(*parts)

    def _counters(self) -> Table:
        now = self._now
        table = Table.grid(expand=True, padding=(0, 1))
        numbers = {
            "ticks/s": round(self._rate),
            "ticks": now.ticks,
            "streams": now.streams,
            "alerts": now.alerts,
            "rejected": now.rejected,
            "lag": now.lag,
        }
        for name in numbers:
            table.add_column(justify="right", ratio=3 if name == "ticks" else 2, no_wrap=True)
        table.add_row(*numbers, style="dim")
        table.add_row(*(f"{number:,}" for number in numbers.values()), style="bold")
        return table

    def _progress(self, total: int) -> Table:
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(ratio=1)
        table.add_column(no_wrap=True)
        table.add_row(ProgressBar(total=max(1, total), completed=self._now.ticks), self._remaining(total))
        return table

    def _alerts(self, lines: int) -> Table:
        """The last incidents, newest first, padded to `lines` so that nothing below ever moves."""
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(width=8, no_wrap=True)
        table.add_column(width=12 if self._console.width < 80 else 20, no_wrap=True)
        table.add_column(width=5, no_wrap=True, justify="right")
        table.add_column(ratio=1, no_wrap=True)
        table.add_row("time UTC", "stream", "score", "why", style="dim")
        shown = list(self._incidents.values())[::-1][:lines]
        for alert in shown:
            table.add_row(
                Text(_clock(alert.ts), style="dim"),
                Text(self._plain(alert.stream)),
                Text(f"{alert.score:.1f}", style="red" if alert.score >= GLARING else "yellow"),
                Text(self._plain(_why(alert))),
            )
        for _ in range(lines - len(shown)):
            table.add_row("")
        return table

    def _announcements(self) -> Table:
        table = Table.grid(expand=True, padding=(0, 1))
        table.add_column(width=8, no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
        table.add_row("run time", "announced", style="dim")
        for seconds, text in reversed(self._notes):
            table.add_row(Text(_span(seconds), style="dim"), Text(text))
        for _ in range(NOTE_LINES - len(self._notes)):
            table.add_row("")
        return table


def _why(alert: Alert) -> str:
    return "; ".join(reason.text for reason in alert.reasons)
