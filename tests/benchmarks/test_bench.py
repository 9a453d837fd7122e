"""What `make bench` writes into docs/performance.md."""

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.arithmetic import weights
from benchmarks.bench import PARTS, put
from benchmarks.breakdown import Stopwatch
from benchmarks.peers import plain
from benchmarks.tables import Row, markdown
from service.autoencoder import find, load
from tests.samples import CELLS, ROOT, shipped


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_place_in_the_documentation(part: str, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text((ROOT / "docs" / "performance.md").read_text())
    put(page, part, "a table")
    assert f"<!-- {part} -->\na table\n<!-- end -->" in page.read_text()


def test_a_table_replaces_its_own_part_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("words\n<!-- a -->\nold\n<!-- end -->\nmore\n<!-- b -->\nkept\n<!-- end -->\n")
    put(page, "a", "new")
    assert page.read_text() == "words\n<!-- a -->\nnew\n<!-- end -->\nmore\n<!-- b -->\nkept\n<!-- end -->\n"
    with pytest.raises(ValueError, match="no place for c"):
        put(page, "c", "new")


def test_a_table_shows_three_digits_and_leaves_out_what_was_not_measured() -> None:
    rows: list[Row] = [{"system": "a", "us": 1.234, "ticks/s": 60_123}, {"system": "b", "us": None, "ticks/s": 6.0}]
    assert markdown(rows).splitlines() == [
        "| system | us | ticks/s |",
        "|---|---:|---:|",
        "| a | 1.23 | 60,123 |",
        "| b |  | 6.00 |",
    ]


def test_the_parts_of_a_stopwatch_add_up_to_the_whole() -> None:
    def work() -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass

    def outer() -> None:
        work()
        inner()
        inner()

    watch = Stopwatch()
    inner = watch.around("inner", work)
    began = time.thread_time()
    watch.around("outer", outer)()
    whole = time.thread_time() - began
    assert watch.spent["inner"] == pytest.approx(0.02, rel=0.1)
    assert watch.spent["outer"] == pytest.approx(0.01, rel=0.1)
    assert sum(watch.spent.values()) == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("cell", CELLS)
def test_the_arithmetic_of_a_tick_is_that_of_the_shipped_network(cell: str) -> None:
    card = load(find(cell)).card
    gates = {"lstm": 4, "gru": 3}[cell]
    features, hidden, bottleneck = len(card.features), card.hidden, card.bottleneck
    encoder = gates * hidden * (features + hidden)
    decoder = gates * hidden * (bottleneck + hidden)
    assert sum(w.size for w in weights(cell)) == encoder + hidden * bottleneck + decoder + hidden * features


@pytest.mark.parametrize("cell", CELLS)
def test_the_peers_in_python_run_the_shipped_models(cell: str) -> None:
    model = plain.Model(shipped(cell))
    memory, state = [0.0] * plain.MEMORY, np.zeros((1, model.recurrent), np.float32)
    for number in range(3):
        tick = {"ts": 1 + number, "price": 100.0 + number, "size": 1.0, "bid": 99.0, "ask": 101.0}
        x = plain.features(tick, memory, model.inputs)
        score, state = model.step(x, state)
        assert np.isfinite(score)
    assert x.any()
    assert state.any()
