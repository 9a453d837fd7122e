"""Two models on the same ticks: what counts as the same incident, and what happens when the other one is silent."""

from __future__ import annotations

import pytest

from service.alerts import Alert
from service.board import Board, Status
from service.errors import TickwatchError
from service.metrics import Metrics
from service.peer import MOST_INCIDENTS, Incident, Peer, compared
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
    found = Peer(served.url + "/").compare([alert("A", 0.5)])
    assert (found.status.model, found.both) == ("lstm-1", 1)
    assert Peer(served.url).trace("stream.json", {"name": "A"}) is None
    with pytest.raises(TickwatchError, match="does not answer"):
        Peer(served.url + "/healthz").compare([])
    served.close()
    with pytest.raises(TickwatchError, match="does not answer"):
        Peer(served.url).compare([])
    for address in ("file:///etc/passwd", "127.0.0.1:9464"):
        with pytest.raises(TickwatchError, match="--compare"):
            Peer(address)
