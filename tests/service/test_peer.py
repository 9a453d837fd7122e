"""Two models on the same ticks: what counts as the same incident, and what happens when the other one is silent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.alerts import Alert
from service.board import Board, Status
from service.errors import TickwatchError
from service.metrics import Metrics
from service.peer import AT_ONCE, MOST_INCIDENTS, Incident, Peer, compared
from service.web import Pages

SECOND = 1_000_000_000
OTHER = Status("lstm-1", 3.4)


def alert(stream: str, seconds: float, score: float = 5.0, incident: str = "") -> Alert:
    ts = round((100 + seconds) * SECOND)
    name = incident or f"{stream}@{seconds}"
    return Alert(stream, ts, score, 3.6, "opened", name, "gru-1", "ticks", 2, ts // SECOND, {"price": 1.0}, [])


def test_incidents_of_a_stream_are_the_same_when_they_overlap_or_nearly_do() -> None:
    ours = [alert("A", 0, incident="a"), alert("A", 9, 7.0, incident="a"), alert("B", 20), alert("C", 30)]
    theirs = [alert("A", 5, 4.0), alert("B", 20.9, 3.9), alert("C", 31.1), alert("D", 30)]
    found = compared(OTHER, ours, theirs)
    assert (found.both, found.ours, found.theirs) == (2, 1, 2)
    assert found.incidents[-2:] == [
        Incident("B", 120 * SECOND, 2, 120, 5.0, 3.9),
        Incident("A", 109 * SECOND, 2, 109, 7.0, 4.0),
    ]
    assert {(it.stream, it.ours, it.theirs) for it in found.incidents[:3]} == {
        ("C", 5.0, None), ("C", None, 5.0), ("D", None, 5.0),
    }  # fmt: skip


def test_only_the_time_counts_from_which_both_have_alerts() -> None:
    found = compared(OTHER, [alert("A", n) for n in range(0, 90, 3)], [alert("A", 60), alert("B", 63)])
    assert (found.both, found.ours, found.theirs) == (1, 9, 1)
    nothing = compared(OTHER, [alert("A", 0)], [])
    assert (nothing.both, nothing.ours, nothing.theirs) == (0, 1, 0)


def test_of_many_incidents_all_are_counted_and_the_last_are_listed() -> None:
    ours = [alert("A", 3 * n) for n in range(100)]
    found = compared(OTHER, ours, ours)
    assert found.both == 100
    assert [it.ts for it in found.incidents] == sorted((a.ts for a in ours), reverse=True)[:MOST_INCIDENTS]


def test_another_worker_is_asked_and_one_that_is_none_is_told() -> None:
    board = Board(OTHER)
    board.tell([alert("A", 0)])
    served = Pages(board, Metrics().registry, "127.0.0.1", 0)
    found = Peer(served.url + "/").compare([alert("A", 0.5)], "")
    assert (found.status.model, found.both) == ("lstm-1", 1)
    assert Peer(served.url).last("A") is None
    with pytest.raises(TickwatchError, match="all streams or none"):  # it would tell of those that a key must not see
        Peer(served.url).compare([], "ours:")
    with pytest.raises(TickwatchError, match="refuses"):
        Peer(served.url + "/healthz").compare([], "")
    served.close()
    with pytest.raises(TickwatchError, match="does not answer"):
        Peer(served.url).compare([], "")
    for address in ("file:///etc/passwd", "127.0.0.1:9464"):
        with pytest.raises(TickwatchError, match="--compare"):
            Peer(address)
    with pytest.raises(TickwatchError, match="--compare-key-file"):
        Peer(served.url, "one\ntwo")


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of something that answers in its own way."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_key_goes_to_the_page_that_was_named_and_nowhere_that_it_leads_to() -> None:
    asked: list[tuple[str, str | None]] = []

    def lead_on(request: BaseHTTPRequestHandler) -> None:
        asked.append((request.path, request.headers["authorization"]))
        request.send_response(302)
        request.send_header("location", "/elsewhere")
        request.end_headers()

    with answering(lead_on) as url, pytest.raises(TickwatchError, match="302"):
        Peer(url, "tw_key").compare([], "ours:")
    assert asked == [("/status.json?prefix=ours%3A", "Bearer tw_key")]


def test_a_page_that_keeps_everyone_waiting_holds_only_a_few_of_the_threads() -> None:
    released = threading.Event()

    def wait(request: BaseHTTPRequestHandler) -> None:
        released.wait(20)

    with answering(wait) as url, ThreadPoolExecutor(AT_ONCE + 1) as pool:
        peer = Peer(url)
        asking = [pool.submit(peer.last, "A") for _ in range(AT_ONCE + 1)]
        first = next(as_completed(asking))
        assert "too many" in str(first.exception())
        released.set()
        assert ["does not answer" in str(it.exception()) for it in asking if it is not first] == [True] * AT_ONCE
