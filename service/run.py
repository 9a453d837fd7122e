"""`tickwatch run`: a feed, the embedded log and the worker in one process, watched in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from service.alerts import Alert
from service.autoencoder import find, load
from service.feed import Feed
from service.filefeed import FileFeed
from service.files import tick_files
from service.logs.sqlite import SqliteLog
from service.metrics import Metrics
from service.scorer import Scorer, warm_up
from service.simulator import Simulator
from service.stop import Stop
from service.terminal import Snapshot, View, summary_line
from service.web import Board, Pages, Status
from service.worker import Worker

CHUNK = 5_000  # ticks appended at a time
IDLE_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """What `tickwatch run` was asked for; `ticks` None is the simulated market, `speed` 0 as fast as possible."""

    model: str
    ticks: Path | None
    duration: float | None
    speed: float | None
    resume: bool
    data_dir: Path
    alert_budget: float
    commit_interval_ms: int
    scores: bool
    stream_idle_hours: float
    max_streams: int
    host: str
    port: int | None
    seed: int


def run(options: Options, console: Console) -> None:
    """Score the feed until it ends, the time is over, or Ctrl-C; then print the summary line."""
    scorer = Scorer(load(find(options.model)), options.alert_budget, options.stream_idle_hours, options.max_streams)
    with console.status("getting ready; the first run on a machine compiles its kernels"):
        warm_up(scorer.model)
    path = options.data_dir / "log.sqlite"
    if not options.resume:
        _set_aside(path)
    log = SqliteLog(path, scorer.layout)
    try:
        with Stop() as stop:
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


def _run(options: Options, scorer: Scorer, log: SqliteLog, stop: Stop, console: Console) -> None:
    feed = _open_feed(options, log.feed_position())
    before = log.end - log.lag()[0]  # ticks that an earlier run has scored
    metrics = Metrics()
    board = Board(Status(scorer.model.id, scorer.threshold))
    pages = Pages(board, metrics.registry, options.host, options.port)
    links = [f"{pages.url}/", f"{pages.url}/metrics", f"alerts in {options.data_dir / 'log.sqlite'}"]
    view = View(console, total=feed.total, links=links)

    def committed(alerts: list[Alert]) -> None:
        board.alerts.extend(alerts)
        for alert in alerts:
            view.alert(alert)

    worker = Worker(
        log,
        scorer,
        metrics,
        commit_interval_ms=options.commit_interval_ms,
        publish_scores=options.scores,
        on_commit=committed,
    )
    began = time.monotonic()

    def show() -> None:
        seconds, lag = time.monotonic() - began, log.lag()[0]
        streams = len(scorer.streams)
        board.status = Status(
            scorer.model.id, scorer.threshold, worker.ticks, streams, worker.alerts, worker.rejected, lag, seconds
        )
        view.update(Snapshot(before + worker.ticks, streams, worker.alerts, worker.rejected, seconds, lag))

    with view:
        if before:
            view.note(f"going on after {before:,} ticks that were scored before")
        _loop(options, feed, log, worker, view, board, stop, began, show)
        worker.finish()
        show()
    pages.close()
    line = summary_line(worker.ticks, len(scorer.streams), worker.alerts, time.monotonic() - began)
    console.print(line, highlight=False, soft_wrap=True)


def _loop(
    options: Options,
    feed: Feed,
    log: SqliteLog,
    worker: Worker,
    view: View,
    board: Board,
    stop: Stop,
    began: float,
    show: Callable[[], None],
) -> None:
    """Append what the feed has for the time that has passed, score it, show it; until the end, the deadline or a signal."""
    speed = options.speed if options.speed is not None else (1.0 if options.ticks is None else 0.0)
    deadline = math.inf if options.duration is None else began + options.duration
    ended = False
    while not stop.asked and (now := time.monotonic()) < deadline:
        if not ended and log.lag()[0] < CHUNK:
            until = feed.start_ts + round((now - began) * speed * 1e9) if speed else None
            ended = not _append(feed, until, log, view)
        moved = worker.step(0)
        board.ready = True
        show()
        if ended and not moved:
            return
        if not moved:
            time.sleep(IDLE_SECONDS)


def _append(feed: Feed, until_ts: int | None, log: SqliteLog, view: View) -> bool:
    """Move the feed's next ticks into the log; False once the feed has ended."""
    chunk = feed.read(until_ts, CHUNK)
    if chunk is None:
        return False
    if chunk.values:
        log.append(chunk.values, chunk.position)
    for note in chunk.notes:
        view.note(note)
    return True
