"""What a person sees while tickwatch runs, on a real pseudo terminal and in a pipe."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from service.alerts import Alert, Reason
from service.terminal import Snapshot, View, summary_line

LINKS = ["http://127.0.0.1:8765/", "http://127.0.0.1:8765/metrics"]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOSTILE = "[bold red]BUY[/]\x1b[2J\x1b]0;owned\x07\r\n\u202e:skull:"


def an_alert(incident: str = "a", stream: str = "SIM:ACME", why: str = "price far off", phase: str = "opened") -> Alert:
    reason = Reason("return", 6.1, 12.0, 0.0, why)
    return Alert(stream, 1_700_000_000 * 10**9, 6.1, 3.7, phase, incident, "gru", "ticks", 0, 7, {}, [reason])


def snapshot(seconds: float, ticks: int = 0, alerts: int = 0) -> Snapshot:
    return Snapshot(ticks=ticks, streams=12, alerts=alerts, rejected=1, seconds=seconds, lag=3)


def on_a_terminal(show: Callable[[Console], None], width: int = 80, height: int = 24) -> str:
    """Everything that `show` writes to a pseudo terminal of that size."""
    reading, writing = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while chunk := os.read(reading, 65_536):
                seen.append(chunk)
        except OSError:  # Linux: the other end was closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(writing, "w") as file:
        show(Console(file=file, width=width, height=height, _environ={"TERM": "xterm-256color"}))
    reader.join(timeout=60)
    os.close(reading)
    return b"".join(seen).decode()


def in_a_pipe(show: Callable[[Console], None], environ: dict[str, str] | None = None) -> str:
    file = io.StringIO()
    show(Console(file=file, _environ=environ or {}))
    return file.getvalue()


def frames(output: str) -> list[list[str]]:
    """The pictures drawn one over the other, as lines without escape codes."""
    drawn = re.split(r"(?:\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*)", output)
    return [ANSI.sub("", frame).replace("\r", "").split("\n") for frame in drawn]


def a_busy_run(console: Console, total: int | None = 10_000) -> None:
    with View(console, total, LINKS) as view:
        for i in range(200):
            if i % 10 == 0:
                view.alert(an_alert(f"incident {i}", stream=f"SIM:SYMBOL{i}", why="spread 9.1x its usual width " * 9))
                view.note(f"simulated fault: {i} " * 9)
            view.update(snapshot(i / 100, ticks=50 * i, alerts=i // 10))
    console.print(summary_line(9_950, 12, 20, 2.0), highlight=False, soft_wrap=True)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_picture_fits_the_terminal_and_never_changes_its_height(width: int) -> None:
    output = on_a_terminal(a_busy_run, width=width)
    pictures = frames(output)[:-1]
    assert len(pictures) >= 8
    assert all(cell_len(line) <= width for picture in pictures for line in picture)
    assert len({len(picture) for picture in pictures if any(picture)}) == 1
    assert "9,950" in output
    assert all(link in output for link in LINKS)


def test_the_picture_is_drawn_at_most_four_times_a_second() -> None:
    output = on_a_terminal(a_busy_run)
    assert 8 <= output.count("ticks/s") <= 4 * 2 + 2  # two seconds, and when it opens and closes


def test_the_picture_shows_alerts_with_reasons_notes_rate_and_time_left() -> None:
    def show(console: Console) -> None:
        with View(console, 10_000, LINKS) as view:
            view.update(snapshot(0.0))
            view.alert(an_alert(why="price 12 sigma up"))
            view.note("simulated fault: wild print on SIM:ACME")
            view.update(snapshot(1.0, ticks=2_000))

    lines = [" ".join(line.split()) for line in frames(on_a_terminal(show))[-1]]
    assert "2,000 2,000 12 0 1 3" in lines
    assert any(line.endswith("20% 0:00:04 left") for line in lines)
    assert "22:13:20 SIM:ACME 6.1 price 12 sigma up" in lines
    assert "0:00:00 simulated fault: wild print on SIM:ACME" in lines


def test_an_incident_keeps_one_line_however_many_alerts_it_has() -> None:
    def show(console: Console) -> None:
        with View(console, None, LINKS) as view:
            for phase in ("opened", *["updated"] * 50):
                view.alert(an_alert("one", phase=phase))

    assert sum("SIM:ACME" in line for line in frames(on_a_terminal(show))[-1]) == 1
    assert in_a_pipe(show).count("SIM:ACME") == 1


def test_of_an_incident_the_most_improbable_alert_is_shown() -> None:
    first, worst, last = (replace(an_alert("one", why=f"score {s}"), score=s) for s in (4.0, 9.0, 5.0))

    def show(console: Console) -> None:
        with View(console, None, LINKS) as view:
            for alert in (first, worst, last):
                view.alert(alert)

    assert any("score 9.0" in line for line in frames(on_a_terminal(show))[-1])


def test_the_summary_is_the_last_line_and_the_cursor_comes_back() -> None:
    output = on_a_terminal(a_busy_run)
    assert ANSI.sub("", output).rstrip().split("\r\n")[-1] == "summary: ticks=9950 streams=12 alerts=20 seconds=2.0"
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")


def show_hostile_text(console: Console) -> None:
    with View(console, None, LINKS) as view:
        view.alert(an_alert(stream=HOSTILE, why=HOSTILE))
        view.note(HOSTILE)
        view.update(snapshot(9.0))


def test_names_from_a_feed_are_plain_text_on_a_terminal() -> None:
    output = on_a_terminal(show_hostile_text, width=140)
    assert "[bold red]BUY[/]?[2J" in output
    assert not any(evil in output for evil in ("\x1b[2J", "\x1b]", "\x07", "\u202e", "\N{SKULL}"))


def test_names_from_a_feed_are_plain_text_in_a_pipe() -> None:
    output = in_a_pipe(show_hostile_text)
    assert output.count("[bold red]BUY[/]?[2J?]0;owned????:skull:") == 3
    assert all(c.isprintable() for line in output.split("\n") for c in line)


def test_a_name_that_the_encoding_lacks_does_not_end_the_run() -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="latin-1") as file, View(Console(file=file), None, LINKS) as view:
        view.alert(an_alert(stream="SIM:\N{EURO SIGN}"))
        file.flush()
        assert b"SIM:?" in file.buffer.getvalue()


@pytest.mark.parametrize("environ", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}])
def test_a_pipe_gets_plain_lines_and_a_status_every_five_seconds(environ: dict[str, str]) -> None:
    def show(console: Console) -> None:
        with View(console, None, LINKS) as view:
            for i in range(1_200):
                view.update(snapshot(i / 100, ticks=10 * i))
            view.note("going on after 10 ticks")

    assert in_a_pipe(show, environ).splitlines() == [
        *LINKS,
        "0:00:05 ticks=5000 ticks/s=1000 streams=12 alerts=0 rejected=1 lag=3",
        "0:00:10 ticks=10000 ticks/s=1000 streams=12 alerts=0 rejected=1 lag=3",
        "going on after 10 ticks",
    ]


def test_ticks_scored_before_a_resume_do_not_count_as_speed() -> None:
    def show(console: Console) -> None:
        with View(console, 2_000_000, LINKS) as view:
            view.update(snapshot(0.0, ticks=1_000_000))
            view.update(snapshot(5.0, ticks=1_000_500))

    assert "ticks/s=100 " in in_a_pipe(show)


def test_a_view_that_ends_in_an_error_leaves_a_clean_terminal() -> None:
    def show(console: Console) -> None:
        with pytest.raises(RuntimeError), View(console, None, LINKS):
            raise RuntimeError

    assert on_a_terminal(show).rstrip().endswith("\x1b[?25h")
