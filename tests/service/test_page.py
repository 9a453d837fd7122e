"""The live page in a real browser: what a desk sees of a running worker, and what it sees when something is wrong."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.board import Board, Status
from service.logs.sqlite import SqliteLog
from service.metrics import Metrics
from service.peer import Peer
from service.station import Scoring, Station
from service.ticks import encode
from service.web import Pages
from tests.samples import random_ticks, with_numbers
from tests.serving import as_json, new_key, server

TICKWATCH = Path(sys.executable).parent / "tickwatch"
HOSTILE = "<img src=x onerror=document.title='owned'>"
DRIFT = {"gap": 1.7, "spread": 0.2, "return": 0.01, "size": math.nan, "score": 0.3}
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
    expected = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE", "status of 401", "status of 403", "status of 502")
    assert [line for line in said if not any(words in line for words in expected)] == []


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


@contextmanager
def worker(folder: Path, model: str = "gru", peer: str | None = None) -> Iterator[Desk]:
    scoring = Scoring(model, 20.0, 100, False, 168.0, 1_000_000, "127.0.0.1", 0, Peer(peer) if peer else None)
    scorer = scoring.scorer()
    log = SqliteLog(folder / f"{model}.sqlite", scorer.layout)
    made = Desk(Station(scoring, scorer, log), log)
    made.station.step(0)
    try:
        yield made
    finally:
        made.station.close()
        log.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with worker(tmp_path) as made:
        yield made


def serious(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core holds against the page as it is now."""
    found = Axe().run(page).response["violations"]
    return [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in {"serious", "critical"}]


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
        process.communicate(timeout=60)


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
    expect(page.locator("#about")).to_contain_text("ticks before")  # of the latest incident, before anybody chooses
    expect(page.locator("#list button").first).to_have_attribute("aria-current", "true")
    expect(page.locator("#detail-title")).not_to_be_focused()
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
    assert serious(page) == []


def test_two_models_on_the_same_ticks_are_shown_side_by_side(tmp_path: Path, open_page: Open) -> None:
    with worker(tmp_path, "lstm") as other, worker(tmp_path, "gru", other.url) as mine:
        for each in (other, mine):
            each.score(0, 9_000)
        models = [each.station.board.status.model for each in (mine, other)]
        page = open_page(mine.url)
        expect(page.locator("#models td:first-child")).to_have_text(models)
        expect(page.locator("#agreement")).to_contain_text("both saw")
        row = page.locator("#incidents tr", has_text=HOSTILE, has_not_text="not seen").first
        scores = row.locator("td").all_inner_texts()[2:]
        assert [float(score) > 3 for score in scores] == [True, True]
        row.locator("button").click()
        expect(page.locator("#detail-title")).to_have_text(HOSTILE)
        titles = page.locator("#charts h3")
        expect(titles.nth(2)).to_contain_text(f"score of {models[1]}")
        drawn = page.locator("#charts .chart").nth(2).locator("canvas")
        expect(drawn).to_be_visible()
        assert serious(page) == []
        other.station.pages.close()
        expect(page.locator("#agreement")).to_contain_text("does not answer", timeout=15_000)
        page.locator("#cells button").first.click()
        expect(page.locator("#about")).to_contain_text("Live, the last")


def test_drift_is_told_in_words_the_furthest_first(open_page: Open) -> None:
    board = Board(Status("gru-1", 3.6), drift=lambda: DRIFT)
    board.show(board.status, ready=True)
    shown = Pages(board, Metrics().registry, "127.0.0.1", 0)
    page = open_page(shown.url + "/")
    expect(page.locator("#drifted")).to_have_text("score shifted, 0.30; 1 of 3 features shifted")
    page.locator("#drift summary").click()
    assert page.locator("#shifts .name").all_inner_texts() == ["gap", "score", "spread", "return"]
    assert page.locator("#shifts .word").all_inner_texts() == ["shifted", "shifted", "shifting", "stable"]
    assert serious(page) == []
    shown.close()


def test_the_server_shows_a_key_its_own_streams_and_nothing_without_one(tmp_path: Path, open_page: Open) -> None:
    keys = tmp_path / "keys.jsonl"
    everything, tenant, writer = new_key(keys), new_key(keys, prefix="ours:"), new_key(keys, "score")
    market = as_json(with_numbers(random_ticks(700, streams=1), 600, price=200.0), named=False)
    key_file = tmp_path / "key"
    key_file.write_text(everything)
    with ExitStack() as stack:
        secured = ("--keys-file", str(keys))
        other = stack.enter_context(server(tmp_path / "lstm", "--model", "lstm", *secured))
        compared = ("--compare", other.url, "--compare-key-file", str(key_file))
        running = stack.enter_context(server(tmp_path, *secured, *compared))
        for each in (running, other):
            with each.client(everything) as client:
                for name in ("ours:A", "theirs:B", f"theirs:{HOSTILE}"):
                    path = f"/v1/streams/{urllib.parse.quote(name, safe='')}/ticks"
                    assert client.post(path, json={"ticks": market}).status_code == 200
        page = open_page(running.url + "/#stream=theirs:B")

        def open_with(key: str) -> None:
            page.locator("#key").fill(key)
            page.keyboard.press("Enter")

        expect(page.locator("#key")).to_be_focused()
        expect(page.locator("main")).to_be_hidden()
        assert serious(page) == []
        for refused, why in (("tw_wrong", "not known"), (writer, "this needs read")):
            open_with(refused)
            expect(page.locator("#locked")).to_contain_text(why)
        open_with(tenant)
        expect(page.locator("#list .stream")).to_have_text(["ours:A"])
        expect(page.locator("#cells .name")).to_have_text(["ours:A"])
        expect(page.locator("#streams")).to_have_text("1")
        expect(page.locator("#about")).to_contain_text("No tick of this stream")  # though the address names theirs
        page.locator("#list button").first.click()
        expect(page.locator("#about")).to_contain_text("ticks before")
        expect(page.locator("#drift")).to_be_hidden()
        expect(page.locator("#agreement")).to_contain_text("both saw 1")
        expect(page.locator("#incidents button")).to_have_text(["ours:A"])
        expect(page.locator("#charts h3").nth(2)).to_contain_text("score of lstm-")
        shows_stateless_ticks_too(page, running.client(tenant), market)
        page.reload()
        expect(page.locator("#list .stream")).to_have_count(2)
        page.locator("#forget").click()
        open_with(everything)
        expect(page.locator("#list .stream")).to_have_count(4)
        page.locator("#list button", has_text=HOSTILE).click()
        expect(page.locator("#detail-title")).to_have_text(f"theirs:{HOSTILE}")
        expect(page.locator("#charts canvas").first).to_be_visible()
        expect(page.locator("#drift")).to_be_visible()
        expect(page.locator("#rejected")).to_be_hidden()
        assert serious(page) == []
        keys.write_text("")
        expect(page.locator("#locked")).to_contain_text("not known", timeout=10_000)
        expect(page.locator("#list li, #cells button, #charts canvas")).to_have_count(0)


def shows_stateless_ticks_too(page: Page, client: httpx.Client, market: list[dict[str, Any]]) -> None:
    with client:
        passing = [tick | {"stream": "ours:passing"} for tick in market]
        assert client.post("/v1/score", json={"ticks": passing}).status_code == 200
    expect(page.locator("#list .stream")).to_have_text(["ours:passing", "ours:A"])
    expect(page.locator("#streams")).to_have_text("2")
    page.locator("#list button", has_text="passing").click()
    expect(page.locator("#about")).to_contain_text("ticks before")


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
