"""`tickwatch report`: a replay as one HTML file that needs nothing else, drawn as the live page draws."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.autoencoder import load
from service.errors import TickwatchError
from service.excerpt import Found, Window, excerpt
from service.files import whole
from service.history import AROUND, Cut, Trace
from service.replay import Origin, origin
from service.scorer import Scored, Scorer

LIVE = Path(__file__).parent / "live"
SCRIPTS = ("dom.js", "charts.js", "series.js", "report/report.js")
BINS = 600  # of the course of scores
SHOWN = 24  # incidents that are drawn
LISTED = 500  # incidents that are told
STREAMS = 500


class Incident(msgspec.Struct):
    """A run of alerts of one stream, told by its strongest; times in ms since 1970; `trace` is the place of its picture."""

    stream: str
    time_ms: float
    until_ms: float
    score: float
    alerts: int
    reasons: list[tuple[float, str]]
    features: list[str]
    place: int
    trace: int | None = None


class StreamRow(msgspec.Struct):
    """What became of one stream."""

    stream: str
    ticks: int
    alerts: int
    best: float


class Course(msgspec.Struct):
    """The replay in input order, in steps of as many ticks: time of the first tick in ms, highest score, alerts."""

    step: int
    time_ms: list[float]
    best: list[float]
    alerts: list[int]


class Sheet(msgspec.Struct):
    """All that a report shows."""

    title: str
    model: str
    alert_budget: float | None
    threshold: float
    ticks: int
    rejected: int
    alerts: int
    count: int
    course: Course | None
    streams: list[StreamRow]
    incidents: list[Incident]
    traces: list[Trace]
    note: str


def report(scores: Path, ticks: Sequence[Path], output: Path, progress: Callable[[int], None]) -> tuple[int, int]:
    """Write the report of a file of scores; returns (rows, incidents that are drawn).

    Prices, expectations and reasons come from the files of ticks that were replayed, scored again: `ticks`, or those that the
    replay names. Raises TickwatchError when they are not the ones, or `output` can't be written.
    """
    table = _read(scores)
    made = origin(scores)
    files = list(ticks) or [Path(file) for file in (made.files if made else [])]
    if ticks and made is None:
        raise TickwatchError(f"{scores}: does not say how it was scored; replay the ticks again, with this version")
    sheet, chosen = _overview(scores.name, table, made)
    if made is None or not all(file.is_file() for file in files):
        sheet.note = (
            "The ticks of this replay are not at hand, so there are no prices and no reasons: give --ticks FILE."
        )
    else:
        found = _again(scores, table, made, files, chosen, progress)
        sheet.incidents = _incidents(found)
        _attach(sheet, chosen)
    with whole(output) as partial:
        partial.write_text(html(sheet), encoding="utf-8")
    return len(table), len(sheet.traces)


def _read(scores: Path) -> pa.Table:
    try:
        columns = ["stream", "ts", "score", "threshold", "alert"]
        table = pq.read_table(scores, columns=columns, read_dictionary=["stream"])
    except (OSError, pa.ArrowInvalid) as error:
        raise TickwatchError(
            f"{scores}: no Parquet file of scores, as `tickwatch replay` writes it ({error})"
        ) from error
    if table.num_columns < len(columns) or not len(table):
        raise TickwatchError(f"{scores}: holds no scores; give a file that `tickwatch replay` wrote")
    return table


def _overview(title: str, table: pa.Table, made: Origin | None) -> tuple[Sheet, list[Window]]:
    """What the scores alone tell, and what is worth a closer look: the surroundings of the strongest alerts."""
    good = table.filter(table["score"].is_valid()).combine_chunks()
    names = good["stream"].combine_chunks().dictionary.to_pylist() if len(good) else []
    codes = good["stream"].combine_chunks().indices.to_numpy() if len(good) else np.zeros(0, np.int32)
    score, alert = good["score"].to_numpy(), good["alert"].to_numpy()
    ticks, alarms = (np.bincount(c, minlength=len(names)) for c in (codes, codes[alert]))
    best = np.zeros(len(names))
    np.maximum.at(best, codes, score)
    order = np.lexsort((-best, -alarms))[:STREAMS].tolist()
    sheet = Sheet(
        title=title,
        model=made.model if made else "unknown",
        alert_budget=made.alert_budget if made else None,
        threshold=float(table["threshold"][0].as_py()),
        ticks=len(good),
        rejected=len(table) - len(good),
        alerts=int(alert.sum()),
        count=len(names),
        course=_course(good["ts"].to_numpy(), score, alert),
        streams=[StreamRow(names[k], int(ticks[k]), int(alarms[k]), float(best[k])) for k in order],
        incidents=[],
        traces=[],
        note="",
    )
    return sheet, _windows(names, codes, score, alert)


def _course(ts: NDArray[np.int64], score: NDArray[np.float64], alert: NDArray[np.bool_]) -> Course:
    step = max(1, -(-len(score) // BINS))
    starts = np.arange(0, len(score), step)
    best = np.maximum.reduceat(score, starts) if len(score) else score
    count = np.add.reduceat(alert.astype(int), starts) if len(score) else starts
    return Course(step, (ts[starts] / 1e6).tolist(), np.round(best, 3).tolist(), count.tolist())


def _windows(
    names: list[str], codes: NDArray[np.int32], score: NDArray[np.float64], alert: NDArray[np.bool_]
) -> list[Window]:
    """Around the strongest alerts, none of which is in the window of a stronger one."""
    order = np.argsort(codes, kind="stable")
    begins = np.searchsorted(codes[order], np.arange(len(names)))
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - begins[codes[order]]
    windows: list[Window] = []
    strongest = np.flatnonzero(alert)
    for i in strongest[np.argsort(-score[strongest], kind="stable")].tolist():
        stream, at = names[codes[i]], int(place[i])
        if not any(w.stream == stream and w.first <= at < w.last for w in windows):
            windows.append(Window(stream, max(0, at - AROUND), at + AROUND + 1))
        if len(windows) == SHOWN:
            break
    return windows


def _again(
    scores: Path,
    table: pa.Table,
    made: Origin,
    files: list[Path],
    windows: list[Window],
    progress: Callable[[int], None],
) -> list[Found]:
    """Fill the windows from the ticks, which must give the very scores that the file holds."""
    told = table["score"].drop_null().to_numpy()
    done = 0

    def compare(scored: Scored) -> None:
        nonlocal done
        n = len(scored.ticks)
        if not np.array_equal(scored.verdicts.score, told[done : done + n]):
            raise TickwatchError(
                f"{scores}: the ticks of {', '.join(map(str, files))} do not give its scores; they, or the model"
                f" {made.file}, have changed since: replay them again, or give the right ones with --ticks"
            )
        done += n
        progress(n)

    return excerpt(files, scorer_of(made), windows, compare)


def scorer_of(made: Origin) -> Scorer:
    """The scorer that a replay had."""
    return Scorer(load(Path(made.file)), made.alert_budget, made.stream_idle_hours)


def _incidents(found: list[Found]) -> list[Incident]:
    """The strongest incidents, each as its strongest alert."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(one.alert.incident, []).append(one)
    told = []
    for group in groups.values():
        peak = max(group, key=lambda one: one.alert.score)
        reasons = [(reason.score, reason.text) for reason in peak.alert.reasons]
        times = [one.alert.ts / 1e6 for one in group]
        features = peak.features()
        stream, score = peak.alert.stream, peak.alert.score
        told.append(Incident(stream, times[0], times[-1], score, len(group), reasons, features, peak.place))
    return sorted(told, key=lambda it: -it.score)[:LISTED]


def _attach(sheet: Sheet, windows: list[Window]) -> None:
    """Give each incident the picture that its strongest tick is in."""
    for window in windows:
        inside = [i for i in sheet.incidents if i.stream == window.stream and window.first <= i.place < window.last]
        for incident in inside:
            if incident.trace is None:
                incident.trace = len(sheet.traces)
        sheet.traces.append(window.cut().trace(inside[0].features if inside else ()))


def excerpt_sheet(title: str, scorer: Scorer, cut: Cut, found: list[Found], center: Found | None) -> Sheet:
    """A report of nothing but one piece of a stream; its strongest alert, `center`, is told in words."""
    trace = cut.trace(center.features() if center else ())
    if center:
        incident = _incidents([center])[0]
    else:
        times = cut.numbers["ts"]
        incident = Incident(cut.stream, float(times[0]), float(times[-1]), 0.0, 0, [], [], -1)
    incident.alerts, incident.trace = len(found), 0
    return Sheet(
        title=title,
        model=scorer.model.id,
        alert_budget=scorer.alert_budget,
        threshold=scorer.threshold,
        ticks=len(cut.offset),
        rejected=0,
        alerts=len(found),
        count=1,
        course=None,
        streams=[],
        incidents=[incident],
        traces=[trace],
        note="",
    )


def html(sheet: Sheet) -> str:
    """The file. Its scripts and style are allowed by their digests, so that nothing else in it can run."""
    parts = {
        "library": (LIVE / "vendor" / "uPlot.iife.min.js").read_text(),
        "script": "\n".join(_joined((LIVE / name).read_text()) for name in SCRIPTS),
        "style": "".join(
            (LIVE / name).read_text() for name in ("vendor/uPlot.min.css", "style.css", "report/report.css")
        ),
    }
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; script-src {} {}; style-src {}"
    parts["policy"] = policy.format(*(_digest(parts[name]) for name in ("library", "script", "style")))
    parts["data"] = msgspec.json.encode(sheet).decode().replace("<", "\\u003c")  # or a name could end its element
    page = (LIVE / "report" / "report.html").read_text()
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], page)


def _joined(module: str) -> str:
    """A module of ours as a part of one script."""
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", module, flags=re.MULTILINE), flags=re.MULTILINE)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
