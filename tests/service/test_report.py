"""`tickwatch report`: one file that tells a replay in numbers and pictures, in a real browser, whatever a stream is called."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from service.autoencoder import load
from service.errors import TickwatchError
from service.replay import Origin, replay
from service.report import report
from service.scorer import Scorer
from service.ticks import encode
from tests.samples import random_ticks, shipped, with_numbers
from tests.service.test_page import HOSTILE, MARKET, browser, open_page

__all__ = ["browser", "open_page"]
ENDING = "</script><script>document.title='owned'</script>"
TWO = with_numbers(MARKET, at := MARKET.stream.index("S3", 8_000), price=MARKET.price[at] * 2)
Show = Callable[..., Page]


def replayed(ticks: Path, output: Path, made: bool = True) -> Path:
    """The scores of a file, in a file."""
    path = shipped("gru")
    origin = Origin("gru", str(path), 20.0, 168.0, [str(ticks)]) if made else None
    scorer = Scorer(load(path), 20.0)
    replay([ticks], scorer, output, explain=False, progress=lambda n: None, rejected=lambda *_: None, made=origin)
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay of a market with a jump in each of two streams of hostile names, and its report."""
    folder = tmp_path_factory.mktemp("report")
    lines = b"\n".join(encode(TWO)).replace(b'"S3"', json.dumps(ENDING).encode())
    (folder / "ticks.jsonl").write_bytes(lines + b"\njunk")
    replayed(folder / "ticks.jsonl", folder / "scores.parquet")
    report(folder / "scores.parquet", [], folder / "report.html", lambda n: None)
    return folder


def data(page: Path) -> dict[str, Any]:
    """What the file shows."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found
    told: dict[str, Any] = json.loads(found[1])
    return told


def test_it_tells_what_the_scores_and_the_serving_code_say(folder: Path) -> None:
    sheet, table = data(folder / "report.html"), pq.read_table(folder / "scores.parquet")
    alert = np.array(table["alert"].to_pylist())
    assert (sheet["ticks"], sheet["rejected"], sheet["alerts"]) == (len(MARKET), 1, int(alert.sum()))
    assert sum(row["ticks"] for row in sheet["streams"]) == len(MARKET)
    assert max(sheet["course"]["best"]) == pytest.approx(max(table["score"].to_pylist()[:-1]), abs=1e-3)
    worst = next(incident for incident in sheet["incidents"] if incident["stream"] == HOSTILE)
    assert any("price up" in text for _, text in worst["reasons"])
    trace = sheet["traces"][worst["trace"]]
    own = [
        s for s, name in zip(table["score"].to_pylist(), table["stream"].to_pylist(), strict=True) if name == HOSTILE
    ]
    assert trace["score"] == own[trace["offset"][0] : trace["offset"][-1] + 1]
    assert trace["score"][trace["offset"].index(worst["place"])] == worst["score"]
    assert "return" in [course["feature"] for course in trace["courses"]]


def test_it_shows_incidents_and_draws_the_chosen_one(folder: Path, open_page: Show) -> None:
    page = open_page((folder / "report.html").as_uri())
    page.locator("#list button", has_text=HOSTILE).first.click()
    expect(page.locator("#detail-title")).to_have_text(HOSTILE)
    expect(page.locator("#reasons li").first).to_contain_text("usual moves")
    expect(page.locator("#charts .uplot")).to_have_count(5)
    expect(page.locator("#course .uplot")).to_have_count(1)
    incidents = page.locator("#list button")
    assert incidents.count() > 1
    incidents.last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_have_text(incidents.last.locator(".stream").inner_text())
    expect(page.locator("#detail-title")).to_be_focused()
    expect(page.locator("#rows")).to_contain_text(ENDING)  # as text
    assert page.title() == "scores.parquet · tickwatch"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_it_is_readable_on_a_phone_and_in_the_dark_and_asks_nobody(
    folder: Path, open_page: Show, width: int, scheme: str
) -> None:
    page = open_page((folder / "report.html").as_uri(), width=width, scheme=scheme)
    expect(page.locator("#charts .uplot").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_nothing_but_its_own_script_may_run(folder: Path, tmp_path: Path, browser: Browser) -> None:
    text = (folder / "report.html").read_text()
    (tmp_path / "changed.html").write_text(text.replace("</body>", "<script>document.title='owned'</script></body>"))
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "changed.html").as_uri())
    expect(page.locator("#charts .uplot").first).to_be_visible()
    assert page.title() == "scores.parquet · tickwatch"
    assert "Content Security Policy" in said[0]
    page.close()


def test_without_the_ticks_it_says_what_is_missing_and_with_other_ones_it_refuses(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ticks.jsonl").write_bytes((folder / "ticks.jsonl").read_bytes())
    scores = replayed(tmp_path / "ticks.jsonl", tmp_path / "scores.parquet")
    (tmp_path / "ticks.jsonl").rename(tmp_path / "moved.jsonl")
    report(scores, [], tmp_path / "bare.html", lambda n: None)
    assert "--ticks" in data(tmp_path / "bare.html")["note"]
    assert report(scores, [tmp_path / "moved.jsonl"], tmp_path / "whole.html", lambda n: None)[1] > 0
    (tmp_path / "other.jsonl").write_bytes(b"\n".join(encode(random_ticks(len(MARKET), seed=9))))
    with pytest.raises(TickwatchError, match=r"other\.jsonl do not give its scores"):
        report(scores, [tmp_path / "other.jsonl"], tmp_path / "other.html", lambda n: None)
    assert not (tmp_path / "other.html").exists()
    replayed(tmp_path / "other.jsonl", scores, made=False)
    report(scores, [], tmp_path / "foreign.html", lambda n: None)  # scores that do not say what they were made of
    assert data(tmp_path / "foreign.html")["alert_budget"] is None


def test_what_is_no_file_of_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(TickwatchError, match=r"junk\.parquet: no Parquet file of scores"):
        report(tmp_path / "junk.parquet", [], tmp_path / "out.html", lambda n: None)
