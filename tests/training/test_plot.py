"""`tickwatch plot` draws the neighbourhood of the strongest alert and tells it in words."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from service.errors import TickwatchError
from service.ticks import encode
from tests.samples import random_ticks, with_numbers
from training.plot import plot

CALM = random_ticks(6000, streams=3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    at = next(i for i in range(5000, 6000) if CALM.stream[i] == "S0")
    path = tmp_path / "ticks.jsonl"
    path.write_bytes(b"\n".join(encode(with_numbers(CALM, at, price=CALM.price[at] * 1.5, size=100.0))))
    return path


def test_the_picture_is_written_and_the_alerts_are_told(file: Path, tmp_path: Path) -> None:
    words = plot(file, None, "gru", 20.0, None, 300, tmp_path / "out.png")
    assert "price up" in words
    assert matplotlib.image.imread(tmp_path / "out.png").std() > 0.01


@pytest.mark.parametrize(
    ("stream", "output", "words"), [("NONE", "out.png", "--stream NONE"), (None, "nowhere/out.png", "--output")]
)
def test_a_mistake_is_named(file: Path, tmp_path: Path, stream: str | None, output: str, words: str) -> None:
    with pytest.raises(TickwatchError, match=words):
        plot(file, stream, "gru", 20.0, None, 300, tmp_path / output)
