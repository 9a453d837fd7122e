"""The live page in a real browser: what a desk sees of a running worker, and what it sees when something is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.board import Board
from service.logs.sqlite import SqliteLog
from service.metrics import Metrics
from service.station import Scoring, Station
from service.ticks import encode
from service.web import Pages
from tests.samples import random_ticks, with_numbers

TICKWATCH = Path(sys.executable).parent / "tickwatch"
HOSTILE = "<img src=x onerror=document.title='owned'>"
JUMP = 8_000
CALM = random_ticks(9_000, streams=12)
LOUD = with_numbers(CALM, JUMP, price=CALM.price[JUMP] * 1.5)
MARKET = replace(LOUD, stream=[HOSTILE if name == CALM.stream[JUMP] else name for name in LOUD.stream])
Open = Callable[..., Page]


@pytest.fixture(scope="module")  # while it is open, no other test could run an event loop
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        reason = "needs Chromium (Debian, Ubuntu: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a page; at the end none of them may have said anything on its console."""
    said: list[str] = []
    opened: list[Page] = []

    def visit(url: str, *, width: int = 1440, height: int = 1000, scheme: str = "light") -> Page:
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.close()
    assert [line for line in said if "ERR_CONNECTION_REFUSED" not in line and "ERR_INCOMPLETE" not in line] == []


@dataclass(frozen=True)
class Desk:
    """A worker on the embedded log, moved by the test itself."""

    station: Station
    log: SqliteLog

    @property
    def url(self) -> str:
        return self.station.pages.url + "/"

    def score(self, first: int, last: int) -> None:
        self.log.append(encode(MARKET)[first:last], b"")
        while self.station.step(0):
            pass
        self.station.worker.commit()
        self.station.step(0)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    scoring = Scoring("gru", 20.0, 100, False, 168.0, 1_000_000, "127.0.0.1", 0)
    scorer = scoring.scorer()
    log = SqliteLog(tmp_path / "log.sqlite", scorer.layout)
    made = Desk(Station(scoring, scorer, log), log)
    made.station.step(0)
    yield made
    made.station.close()
    log.close()


def test_alerts_of_a_running_worker_appear_and_lead_to_what_was_around_them(tmp_path: Path, open_page: Open) -> None:
    command = [str(TICKWATCH), "run", "--port", "0", "--data-dir", str(tmp_path), "--speed", "4", "--duration", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        page = open_page(process.stdout.readline().strip())
        alert = page.locator("#list button").last
        expect(alert).to_be_visible(timeout=40_000)
        stream = alert.locator(".stream").inner_text()
        why = alert.locator(".why").inner_text()
        alert.click()
        expect(page.locator("#detail-title")).to_have_text(stream)
        expect(page.locator("#reasons li").first).to_contain_text(why.split(";")[0].split("…")[0][:20])
        expect(page.locator("#about")).to_contain_text("ticks before")
        assert page.locator("#charts canvas").count() >= 3
        expect(page.locator("#rate")).not_to_have_text("–")
        before = page.locator("#ticks").inner_text()
        expect(page.locator("#ticks")).not_to_have_text(before, timeout=5_000)
        process.terminate()
        expect(page.locator("#problem")).to_contain_text("does not answer", timeout=10_000)
        process.communicate(timeout=20)


def test_a_hostile_stream_name_is_shown_and_never_run(desk: Desk, open_page: Open) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url)
    page.locator("#list button", has_text=HOSTILE).first.click()
    expect(page.locator("#detail-title")).to_have_text(HOSTILE)
    page.locator("#cells button", has_text="<img").click()
    expect(page.locator("#about")).to_contain_text("Live")
    page.locator("#wanted").fill("<im")
    expect(page.locator("#found option")).to_have_attribute("value", HOSTILE)
    page.locator("#wanted").press("Enter")
    expect(page.locator("#detail-title")).to_have_text(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.title() == "tickwatch"


def test_code_that_got_into_the_page_would_not_run(desk: Desk, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(desk.url)
    page.evaluate("""() => { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=window.owned=1>");
        const s = document.createElement("script"); s.textContent = "window.owned = 1"; document.body.append(s); }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.owned") is None
    page.close()


def test_charts_show_price_score_and_the_features_that_caused_it(desk: Desk, open_page: Open) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url)
    row = page.locator("#list button", has_text=HOSTILE).first
    row.click()
    expect(row).to_have_attribute("aria-current", "true")
    titles = page.locator("#charts h3")
    expect(titles.nth(0)).to_contain_text("bid and ask")
    expect(titles.nth(1)).to_contain_text("threshold")
    expect(titles.nth(2)).to_contain_text("usual moves")
    expect(page.locator("#charts canvas")).to_have_count(page.locator("#charts h3").count())
    page.locator("#numbers summary").click()
    expect(page.locator("#rows tr.over").first).to_be_visible()
    page.locator("#follow").click()
    expect(page.locator("#about")).to_contain_text("Live, the last")
    page.go_back()
    expect(page.locator("#about")).to_contain_text("ticks before")


def test_new_alerts_arrive_by_themselves_and_wait_while_somebody_reads(desk: Desk, open_page: Open) -> None:
    desk.score(0, JUMP)
    page = open_page(desk.url)
    expect(page.locator("#connection")).to_contain_text("live")
    rows = page.locator("#list li")
    page.locator("#pause").click()
    before = rows.count()
    desk.score(JUMP, 9_000)
    expect(page.locator("#held")).to_contain_text("new")
    assert rows.count() == before
    page.locator("#held").click()
    expect(page.locator("#list button", has_text=HOSTILE).first).to_be_visible()
    expect(page.locator("#spoken")).to_contain_text("new alert", timeout=15_000)


def test_everything_can_be_reached_with_the_keyboard(desk: Desk, open_page: Open) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url)
    expect(page.locator("#cells button").nth(1)).to_be_visible()
    page.locator("#list button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_be_focused()
    page.locator("#cells button").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cells button").nth(1)).to_be_focused()
    name = page.locator("#cells button").nth(1).locator(".name").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_have_text(name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(desk: Desk, open_page: Open, scheme: str) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url, scheme=scheme)
    page.locator("#list button").first.click()
    page.locator("#charts canvas").first.wait_for()
    page.locator("#numbers summary").click()
    page.locator("#model summary").click()
    expect(page.locator("#card")).to_contain_text("GRU")
    found = Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in {"serious", "critical"}] == []


def test_a_phone_shows_it_all_without_scrolling_sideways(desk: Desk, open_page: Open) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url, width=360, height=740)
    page.locator("#list button").first.click()
    page.locator("#charts canvas").first.wait_for()
    page.locator("#numbers summary").click()
    page.locator("#model summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_before_the_first_tick_and_without_alerts_the_page_says_so(desk: Desk, open_page: Open) -> None:
    page = open_page(desk.url)
    expect(page.locator("#no-alerts")).to_contain_text("No alerts so far")
    expect(page.locator("#no-heat")).to_be_visible()
    expect(page.locator("#about")).to_contain_text("Choose an alert")
    page.locator("#wanted").fill("nobody")
    page.locator("#wanted").press("Enter")
    expect(page.locator("#about")).to_contain_text("No tick of this stream")


def test_an_alert_that_is_no_longer_kept_is_told(desk: Desk, open_page: Open) -> None:
    page = open_page(desk.url + "#partition=0&offset=77")
    expect(page.locator("#about")).to_contain_text("no longer kept")


def test_a_worker_that_stands_still_is_told(desk: Desk, open_page: Open) -> None:
    page = open_page(desk.url)
    expect(page.locator("#problem")).to_contain_text("has not moved", timeout=15_000)
    desk.score(0, 100)
    expect(page.locator("#problem")).to_be_hidden()


def test_the_page_finds_a_restarted_worker_again_and_drops_what_the_old_one_said(desk: Desk, open_page: Open) -> None:
    desk.score(0, 9_000)
    page = open_page(desk.url)
    page.locator("#list button").first.click()
    expect(page.locator("#about")).to_contain_text("ticks before")
    port = urllib.parse.urlsplit(desk.url).port
    desk.station.pages.close()
    expect(page.locator("#connection")).to_have_text("not connected")
    expect(page.locator("#problem")).to_contain_text("does not answer")
    board = Board(desk.station.board.status)
    board.show(board.status, ready=True)
    again = Pages(board, Metrics().registry, "127.0.0.1", port)
    expect(page.locator("#connection")).to_contain_text("live", timeout=15_000)
    expect(page.locator("#list li")).to_have_count(0)
    expect(page.locator("#no-alerts")).to_be_visible()
    again.close()
