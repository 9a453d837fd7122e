"""Beside every model lies a card that says what it is, and what it says is true of the model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from service import autoencoder
from service.autoencoder import Model
from service.card import CellKind
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import random_ticks
from training.fit import Settings
from training.history import History, fingerprint, gather
from training.modelcard import MOST_STREAMS
from training.train import train

SMALL = Settings(cell="gru", hidden=8, bottleneck=2, epochs=2, lanes=8, chunk=32)
QUIET = Console(quiet=True)


def history(ticks: Ticks) -> History:
    streams = gather([ticks])
    return History(streams, 7, fingerprint(streams), "a test")


def trained(history: History, settings: Settings, folder: Path) -> tuple[Model, str]:
    train(lambda: history, folder / "m.onnx", settings, folder / "run", False, QUIET)
    return autoencoder.load(folder / "m.onnx"), (folder / "m.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Model, str, Path]:
    folder = tmp_path_factory.mktemp("model")
    given = history(random_ticks(9_000, streams=3))
    return (given, *trained(given, SMALL, folder), folder)


def row(card: str, name: str) -> list[str]:
    """The cells of the one row that begins with this name."""
    (found,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def test_the_card_names_the_model_its_data_and_how_it_was_trained(made: tuple[History, Model, str, Path]) -> None:
    _, model, card, folder = made
    assert card.startswith(f"# {model.id}: a GRU autoencoder")
    assert model.card.code_revision in row(card, "made by")[0]
    assert model.card.data_fingerprint in row(card, "fingerprint")[0]
    assert row(card, "ticks") == ["9,000 of 3 streams"]
    assert row(card, "origin") == ["a test; 7 records could not be read"]
    assert row(card, "time") == ["2023-11-14 22:13 to 2023-11-14 22:13"]
    settings = json.loads((folder / "run" / "settings.json").read_bytes())["settings"]
    for name in settings.keys() - {"bottleneck", "validation"}:  # which are told in words, too
        assert row(card, name) == [str(settings[name])]
    for budget, threshold in model.card.thresholds.items():
        assert row(card, budget) == [f"{threshold:.3f}"]
    assert all(feature in card for feature in model.card.features)
    assert str(folder) not in card
    assert (folder / "run" / "model.md").read_text() == card


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_card_counts_the_weights_in_the_file(cell: CellKind, tmp_path: Path) -> None:
    given = history(random_ticks(1_500, streams=1))
    model, card = trained(given, replace(SMALL, cell=cell, epochs=1), tmp_path)
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(model.path).graph.initializer}
    unused = sum(weights[f"{side}.b"].size // 2 for side in ("encoder", "decoder"))
    assert row(card, "weights") == [f"{sum(w.size for w in weights.values() if w.dtype == np.float32) - unused:,}"]
    assert row(card, "state")[0].startswith(f"{model.recurrent} float32 numbers")


def test_the_false_alarms_are_those_that_the_serving_code_raises(made: tuple[History, Model, str, Path]) -> None:
    given, model, card, _ = made
    for name, ticks in given.streams.items():
        scorer = Scorer(model, 100.0, idle_hours=0.0)
        halves = [scorer.score(ticks.take(half)) for half in np.array_split(np.arange(len(ticks)), 2)]
        last = np.concatenate([s.verdicts.score for s in halves])[SMALL.trained(len(ticks)) :]
        crossings = np.flatnonzero(last >= scorer.threshold)
        alarms = 0
        while len(crossings):
            alarms += 1
            crossings = crossings[crossings >= crossings[0] + 50]
        assert row(card, name)[-1] == f"{alarms * 1e5 / len(last):.1f}"


def test_streams_too_short_to_learn_from_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = random_ticks(3_000, streams=1)
    few = replace(ticks.take(np.arange(400)), stream=["few"] * 400)
    given = history(ticks)
    mixed = replace(given, streams=gather([ticks, few]))
    train(lambda: mixed, tmp_path / "m.onnx", replace(SMALL, epochs=1), tmp_path / "run", False, Console(width=200))
    assert "too short to learn from and left out: few (400 ticks)" in capsys.readouterr().out
    without = autoencoder.load(tmp_path / "m.onnx").card
    assert row((tmp_path / "m.md").read_text(), "left out") == ["1 streams too short to learn from"]
    alone, _ = trained(given, replace(SMALL, epochs=1), tmp_path)
    assert (alone.card.thresholds, alone.card.standardisation) == (without.thresholds, without.standardisation)


def test_of_very_many_streams_the_longest_have_a_row(tmp_path: Path) -> None:
    ticks = random_ticks(500, streams=1)
    names = [f"N{number:02}" for number in range(MOST_STREAMS + 2)]
    streams = {name: replace(ticks.take(np.arange(450 + n)), stream=[name] * (450 + n)) for n, name in enumerate(names)}
    given = History(streams, 0, fingerprint(streams), "a test")
    _, card = trained(given, replace(SMALL, epochs=1), tmp_path)
    assert row(card, "2 shorter streams")
    assert "| N01 |" not in card
    assert "| N02 |" in card
