"""The pages answer over real HTTP: the live page, its data, metrics, health."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.alerts import Alert, Reason
from service.autoencoder import load
from service.errors import TickwatchError
from service.metrics import SCORE_BUCKETS, Metrics
from service.web import Board, Pages, Status
from tests.samples import shipped

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
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_is_served_whole_with_a_policy_against_foreign_code(pages: tuple[str, Board, Metrics]) -> None:
    code, headers, body = get(pages[0] + "/")
    assert code == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "http://" not in body
    assert "https://" not in body
    assert "innerHTML" not in body


def test_the_page_gets_its_numbers_and_alerts_newest_first(pages: tuple[str, Board, Metrics]) -> None:
    url, board, _ = pages
    board.status = Status("gru-1", 3.6, ticks=7)
    board.alerts.extend([ALERT] * 60)
    _, headers, body = get(url + "/status.json")
    data = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert data["status"]["ticks"] == 7
    assert len(data["alerts"]) == 50
    assert data["alerts"][0]["stream"] == HOSTILE


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
