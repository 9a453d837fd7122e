"""`tickwatch run`: a feed, the embedded log and the worker in one process, watched in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from service.alerts import Alert
from service.feed import Feed
from service.filefeed import FileFeed
from service.files import tick_files
from service.logs.sqlite import SqliteLog
from service.scorer import Scorer, warm_up
from service.simulator import Simulator
from service.station import Scoring, Station
from service.stop import Stop
from service.terminal import Snapshot, View, summary_line

CHUNK = 5_000  # ticks appended at a time
IDLE_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """What `tickwatch run` was asked for; `ticks` None is the simulated market, `speed` 0 as fast as possible."""

    scoring: Scoring
    ticks: Path | None
    duration: float | None
    speed: float | None
    resume: bool
    data_dir: Path
    seed: int


def run(options: Options, console: Console, stop: Stop) -> None:
    """Score the feed until it ends, the time is over, or `stop` is asked for; then print the summary line."""
    scorer = options.scoring.scorer()
    with console.status("getting ready; the first run on a machine compiles its kernels"):
        warm_up(scorer.model)
    path = options.data_dir / "log.sqlite"
    if not options.resume:
        _set_aside(path)
    log = SqliteLog(path, scorer.layout)
    try:
        _run(options, scorer, log, stop, console)
    finally:
        log.close()


def _set_aside(path: Path) -> None:
    """Keep the last run's log as previous.sqlite: starting afresh must not cost anyone their alerts."""
    for suffix in ("", "-wal", "-shm"):
        last = path.with_name(path.name + suffix)
        if last.exists():
            last.replace(path.with_name("previous.sqlite" + suffix))


def _open_feed(options: Options, position: bytes | None) -> Feed:
    if options.ticks is None:
        return Simulator(seed=options.seed, start_ts=time.time_ns(), position=position)
    return FileFeed(tick_files(options.ticks), position=position)


@dataclass
class Intake:
    """Moves a feed's ticks into the log at `speed` times real time since `began`; 0 is as fast as they are scored."""

    feed: Feed
    log: SqliteLog
    speed: float
    began: float
    note: Callable[[str], None]
    ended: bool = False

    def fill(self, now: float) -> None:
        """Append what the feed has for the time that has passed, unless there is enough to score."""
        if self.ended or self.log.lag()[0] >= CHUNK:
            return
        until_ts = self.feed.start_ts + round((now - self.began) * self.speed * 1e9) if self.speed else None
        chunk = self.feed.read(until_ts, CHUNK)
        if chunk is None:
            self.ended = True
            return
        if chunk.values:
            self.log.append(chunk.values, chunk.position)
        for note in chunk.notes:
            self.note(note)


def _run(options: Options, scorer: Scorer, log: SqliteLog, stop: Stop, console: Console) -> None:
    def committed(alerts: list[Alert]) -> None:
        for alert in alerts:
            view.alert(alert)

    def show() -> None:
        status = station.status()
        seen = status.streams, status.alerts, status.rejected or 0, status.seconds, status.lag
        view.update(Snapshot(before + status.ticks, *seen))

    feed = _open_feed(options, log.feed_position())
    before = log.end - log.lag()[0]  # ticks that an earlier run has scored
    station = Station(options.scoring, scorer, log, committed=committed)
    url = station.pages.url
    links = [f"{url}/", f"{url}/metrics", f"alerts in {options.data_dir / 'log.sqlite'}"]
    view = View(console, total=feed.total, links=links)
    began = time.monotonic()
    deadline = math.inf if options.duration is None else began + options.duration
    speed = options.speed if options.speed is not None else (1.0 if options.ticks is None else 0.0)
    intake = Intake(feed, log, speed, began, view.note)
    with view:
        if before:
            view.note(f"going on after {before:,} ticks that were scored before")
        while not stop.asked and (now := time.monotonic()) < deadline:
            intake.fill(now)
            moved = station.step(0)
            show()
            if not moved and intake.ended:
                break
            if not moved:
                time.sleep(IDLE_SECONDS)
        station.worker.finish()
        show()
    station.close()
    end = station.status()
    console.print(summary_line(end.ticks, end.streams, end.alerts, end.seconds), highlight=False, soft_wrap=True)
