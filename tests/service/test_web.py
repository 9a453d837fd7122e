"""The pages answer over real HTTP: the live page, its data, metrics, health."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.alerts import Alert, Reason
from service.autoencoder import load
from service.board import Board, Status
from service.errors import TickwatchError
from service.metrics import SCORE_BUCKETS, Metrics
from service.page import LIVE, MOST_ALERTS, MOST_HOT
from service.scorer import Scorer
from service.web import Pages
from tests.samples import random_ticks, shipped

HOSTILE = "<img src=x onerror=alert(1)>"
ALERT = Alert(
    HOSTILE, 1, 5.0, 3.6, "opened", "t/0/1/m", "m", "t", 0, 1, {"price": 1.0}, [Reason("size", 5.0, 9.0, 1.0, "size 9")]
)


@pytest.fixture
def pages() -> Iterator[tuple[str, Board, Metrics]]:
    board, metrics = Board(Status("gru-1", 3.6)), Metrics()
    served = Pages(board, metrics.registry, "127.0.0.1", 0)
    yield served.url, board, metrics
    served.close()


def get(url: str, accept: str = "*/*") -> tuple[int, Message, str]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_is_served_whole_with_a_policy_that_lets_in_no_foreign_and_no_inline_code(
    pages: tuple[str, Board, Metrics],
) -> None:
    code, headers, body = get(pages[0] + "/")
    assert code == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    files = re.findall(r'(?:src|href)="(live/[^"]+)"', body)
    assert len(files) >= 4
    sources = [get(f"{pages[0]}/{name}") for name in files]
    assert {code for code, _, _ in sources} == {200}
    assert not re.search(r"style=|onclick=|<script>|<style>|https?://", body)
    for path in LIVE.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|https?://|eval\(", path.read_text()
        )


@pytest.mark.parametrize("path", ["/live/..%2fweb.py", "/live/vendor/../../web.py", "/live/nothing.js", "/live/"])
def test_no_other_file_is_served(pages: tuple[str, Board, Metrics], path: str) -> None:
    assert get(pages[0] + path)[0] == 404


def test_vendored_files_are_those_that_the_notice_names() -> None:
    notice = (LIVE / "vendor" / "NOTICE").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        assert f"{hashlib.sha256((LIVE / 'vendor' / name).read_bytes()).hexdigest()}  {name}" in notice


def test_the_page_gets_its_numbers_and_alerts_newest_first(pages: tuple[str, Board, Metrics]) -> None:
    url, board, _ = pages
    board.status = Status("gru-1", 3.6, ticks=7)
    board.tell([ALERT] * 60)
    _, headers, body = get(url + "/status.json")
    data = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert data["status"]["ticks"] == 7
    assert len(data["alerts"]) == 60
    assert data["alerts"][0]["stream"] == HOSTILE


def events(url: str, most: int) -> list[tuple[str, dict[str, Any], int]]:
    """The first events: name, data, and bytes."""
    found: list[tuple[str, dict[str, Any], int]] = []
    name = ""
    with urllib.request.urlopen(url + "/events", timeout=30) as answer:
        while len(found) < most:
            line = answer.readline()
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            if line.startswith(b"data: "):
                found.append((name, json.loads(line[6:]), len(line)))
    return found


def test_a_flood_of_alerts_and_streams_is_sampled_before_it_reaches_the_page(
    pages: tuple[str, Board, Metrics],
) -> None:
    url, board, _ = pages
    board.tell([ALERT] * 10_000)
    scorer = Scorer(load(shipped("gru")), 20)
    market = random_ticks(5_000)
    board.history.add(scorer.score(replace(market, stream=[f"S{n % 2_000}" for n in range(5_000)])))
    (_, hello, _), (_, alerts, large), (_, status, larger) = events(url, 3)
    assert hello["started"] == board.started
    assert len(alerts) == MOST_ALERTS
    assert (len(status["heat"]["stream"]), status["heat"]["active"]) == (MOST_HOT, 2_000)
    assert large + larger < 30_000


def test_searching_finds_streams_by_any_part_of_their_name_those_that_begin_with_it_first() -> None:
    names = ["XBTC", "BTCUSD", HOSTILE, "ETH"]
    served = Pages(Board(Status("m", 1.0), names=lambda: names), Metrics().registry, "127.0.0.1", 0)
    assert json.loads(get(served.url + "/streams.json?q=btc")[2]) == ["BTCUSD", "XBTC"]
    assert json.loads(get(served.url + "/streams.json?q=%3Cimg")[2]) == [HOSTILE]
    assert json.loads(get(served.url + "/streams.json?q=nothing")[2]) == []
    served.close()


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("/alert.json?partition=0&offset=0", 200),
        ("/alert.json?partition=0&offset=99999999999999999999999", 200),
        ("/alert.json?partition=x&offset=0", 422),
        ("/alert.json", 422),
        ("/stream.json?name=nobody", 200),
        ("/stream.json?name=nobody&at=1e12", 200),
        ("/stream.json?name=nobody&at=x", 200),
        ("/stream.json", 200),
    ],
)
def test_what_is_not_kept_or_not_understood_is_told(pages: tuple[str, Board, Metrics], query: str, code: int) -> None:
    answer = get(pages[0] + query)
    assert answer[0] == code
    assert "whole numbers" in json.loads(answer[2])["detail"] if code == 422 else answer[2] == "null"


def test_an_open_page_does_not_keep_the_server_from_ending() -> None:
    board = Board(Status("m", 1.0))
    served = Pages(board, Metrics().registry, "127.0.0.1", 0)
    with urllib.request.urlopen(served.url + "/events", timeout=30) as answer:
        assert answer.readline() == b"event: hello\n"
        began = time.monotonic()
        served.close()
    assert time.monotonic() - began < 20


def test_metrics_are_what_prometheus_reads_and_bounded(pages: tuple[str, Board, Metrics]) -> None:
    url, _, metrics = pages
    metrics.describe(load(shipped("gru")), 20)
    code, headers, body = get(url + "/metrics")
    families = {f.name: f for f in text_string_to_metric_families(body)}
    assert code == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert {"tickwatch_ticks", "tickwatch_alerts", "tickwatch_score", "tickwatch_model_info"} <= set(families)
    buckets = [s for s in families["tickwatch_score"].samples if s.name.endswith("_bucket")]
    assert len(buckets) == len(SCORE_BUCKETS) + 1
    assert sum(len(f.samples) for f in families.values()) < 200
    assert "openmetrics" in get(url + "/metrics", "application/openmetrics-text")[1]["Content-Type"]


def test_health_tells_alive_from_ready(pages: tuple[str, Board, Metrics]) -> None:
    url, board, _ = pages
    assert get(url + "/healthz")[0] == 200
    assert get(url + "/readyz")[0] == 503
    board.ready = True
    assert get(url + "/readyz")[0] == 200
    assert get(url + "/nothing")[0] == 404


def test_a_taken_port_is_named_and_the_default_gives_way() -> None:
    board, registry = Board(Status("m", 1.0)), Metrics().registry
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TickwatchError, match=f"--port {port}"):
            Pages(board, registry, "127.0.0.1", port)
    first = Pages(board, registry, "127.0.0.1", None)
    second = Pages(board, registry, "127.0.0.1", None)
    assert first.url != second.url
    assert get(second.url + "/healthz")[0] == 200
    first.close()
    second.close()
