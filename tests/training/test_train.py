"""`tickwatch train`: from a folder of ticks to a model file that the service loads, the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from service import autoencoder
from service.errors import TickwatchError
from training.fit import Settings
from training.history import read_history
from training.train import SOURCES, code_revision, train

SMALL = Settings(cell="gru", hidden=8, bottleneck=2, epochs=2, lanes=8, chunk=32)
QUIET = Console(quiet=True)


@pytest.fixture
def data(tmp_path: Path, random_ticks: Callable[[int, int], pa.Table]) -> Path:
    (tmp_path / "ticks").mkdir()
    for seed, name in enumerate(("A", "B")):
        pq.write_table(random_ticks(seed, 6_000), tmp_path / "ticks" / f"{name}.parquet")
    return tmp_path / "ticks"


def test_the_same_ticks_settings_and_code_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "first.onnx", tmp_path / "second.onnx"
    done = train(partial(read_history, data), first, SMALL, tmp_path / "first", False, QUIET)
    train(partial(read_history, data), second, SMALL, tmp_path / "second", False, QUIET)
    assert first.read_bytes() == second.read_bytes() == (tmp_path / "first" / "model.onnx").read_bytes()
    assert (done.ticks, done.epochs) == (12_000, 2)

    model = autoencoder.load(first)
    assert model.card.data_fingerprint == read_history(data).fingerprint
    assert model.card.code_revision == code_revision()
    assert (model.card.cell, model.card.hidden, model.card.bottleneck, model.card.seed) == ("gru", 8, 2, 1)

    record = json.loads((tmp_path / "first" / "settings.json").read_bytes())
    assert record["settings"]["learning_rate"] == SMALL.learning_rate
    assert record["ticks"] == {"A": 6_000, "B": 6_000}
    assert (tmp_path / "first" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_output_that_cannot_be_written_is_found_out_before_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TickwatchError, match=r"must be a file whose name ends with \.onnx"):
        train(partial(read_history, data), tmp_path / "model.bin", SMALL, tmp_path / "run", False, QUIET)
    with pytest.raises(TickwatchError, match=r"can't be made .*; choose another one"):
        train(partial(read_history, data), tmp_path / "file" / "model.onnx", SMALL, tmp_path / "run", False, QUIET)


def test_the_code_revision_covers_every_module_that_training_needs() -> None:
    code = "import sys, training.train; print(*(m for m in sys.modules if m.startswith('training.')))"
    needed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    changing = {name.removeprefix("training.") for name in needed} - {"modelcard"}  # it describes the finished model
    assert changing == set(SOURCES["training"])


def test_the_model_card_needs_no_torch() -> None:
    code = "import sys, service.card; sys.exit('torch' in sys.modules or 'training' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
