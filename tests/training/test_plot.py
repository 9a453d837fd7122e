"""`tickwatch plot` draws a piece of a stream as a picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from service.errors import TickwatchError
from service.plot import Piece, Span, pick
from service.ticks import encode
from tests.service.test_plot import MADE, TICKS
from training.plot import draw


@pytest.fixture
def piece(tmp_path: Path) -> Piece:
    (tmp_path / "ticks.jsonl").write_bytes(b"\n".join(encode(TICKS)))
    return pick(tmp_path / "ticks.jsonl", "S0", MADE, Span(around=300))


def test_the_picture_is_written(piece: Piece, tmp_path: Path) -> None:
    draw(piece, tmp_path / "out.png")
    assert matplotlib.image.imread(tmp_path / "out.png").std() > 0.01


def test_a_picture_that_cannot_be_written_is_named(piece: Piece, tmp_path: Path) -> None:
    with pytest.raises(TickwatchError, match="--output"):
        draw(piece, tmp_path / "nowhere" / "out.png")
