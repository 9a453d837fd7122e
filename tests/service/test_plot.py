"""`tickwatch plot` finds a piece of a stream: around an alert or by time, in ticks or in what was replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.errors import TickwatchError
from service.plot import Span, pick, write_html
from service.replay import Origin
from service.ticks import encode
from tests.samples import random_ticks, shipped, with_numbers
from tests.service.test_report import data, replayed

CALM = random_ticks(6000, streams=3)
AT = next(i for i in range(5000, 6000) if CALM.stream[i] == "S0")
TICKS = with_numbers(CALM, AT, price=CALM.price[AT] * 1.5, size=100.0)
OWN = np.array([i for i, name in enumerate(TICKS.stream) if name == "S0"])
MADE = Origin("", str(shipped("gru")), 20.0, 168.0, [])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"\n".join(encode(TICKS)))
    return path


def test_it_shows_the_strongest_alert_and_as_many_ticks_on_either_side(file: Path) -> None:
    piece = pick(file, "S0", MADE, Span(around=100))
    place = int(np.flatnonzero(OWN == AT)[0])
    assert piece.peak is not None
    assert piece.peak.place == place
    assert piece.cut.offset.tolist() == list(range(place - 100, min(place + 100, len(OWN))))
    assert "price up" in piece.words()


def test_it_shows_the_ticks_from_one_time_to_another(file: Path) -> None:
    since, until = (int(TICKS.ts[OWN[i]]) for i in (40, 90))
    piece = pick(file, "S0", MADE, Span(since=since, until=until))
    assert piece.cut.numbers["price"].tolist() == TICKS.price[OWN[40:91]].tolist()
    assert pick(file, "S0", MADE, Span(since=int(TICKS.ts[OWN[-5]]))).cut.offset.tolist() == list(
        range(len(OWN) - 5, len(OWN))
    )


def test_of_a_replay_it_shows_the_ticks_that_were_replayed_as_they_were_scored(file: Path, tmp_path: Path) -> None:
    scores = replayed(file, tmp_path / "scores.parquet")
    again, first = (pick(path, "S0", MADE, Span(around=50)) for path in (scores, file))
    assert again.words() == first.words()
    assert again.cut.numbers["score"].tolist() == first.cut.numbers["score"].tolist()


def test_a_page_holds_the_piece_alone_also_where_nothing_happened(file: Path, tmp_path: Path) -> None:
    for span in (Span(around=50), Span(until=int(TICKS.ts[OWN[30]]))):
        piece = pick(file, "S0", MADE, span)
        write_html(piece, tmp_path / "out.html")
        (trace,) = data(tmp_path / "out.html")["traces"]
        assert trace["score"] == piece.cut.numbers["score"].tolist()
        assert len(trace["courses"]) > 0
    assert json.dumps(trace).count("NaN") == 0


@pytest.mark.parametrize(
    ("stream", "span", "words"),
    [
        ("NONE", Span(), "stream NONE: not in"),
        ("S0", Span(until=1), r"no tick from --from to --to; it goes from 2023-11-14T"),
    ],
)
def test_a_mistake_is_named(file: Path, stream: str, span: Span, words: str) -> None:
    with pytest.raises(TickwatchError, match=words):
        pick(file, stream, MADE, span)
