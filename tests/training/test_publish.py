"""A model is published when it is better, whole, and under a name of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.autoencoder import load
from service.errors import TickwatchError
from tests.samples import shipped
from training.publish import publish

IDS = {cell: load(shipped(cell)).id for cell in ("lstm", "gru")}


def results(folder: Path, data: str = "held-out", **measured: tuple[float, list[int | None]]) -> Path:
    """A results.json of VUS-PR and delays by cell, on ticks with a fingerprint."""
    runs = [
        {"candidate": IDS[cell], "result": {"vus_pr": vus, "delays": {"20.0": delays, "100.0": [1]}}}
        for cell, (vus, delays) in measured.items()
    ]
    path = folder / "results.json"
    path.write_text(json.dumps({"data_fingerprint": data, "runs": runs}))
    return path


@pytest.mark.parametrize(
    ("new", "better"),
    [((0.5, [1, 2]), True), ((0.5, [1, None]), True), ((0.5, [None, None]), False), ((0.4, [1, 2]), False)],
)
def test_only_a_better_model_is_published(tmp_path: Path, new: tuple[float, list[int | None]], better: bool) -> None:
    publish(shipped("lstm"), results(tmp_path, lstm=new, gru=(0.4, [7, None])), tmp_path, "gru")
    assert [path.name for path in tmp_path.glob("*.onnx")] == ([f"{IDS['lstm']}.onnx"] if better else [])
    if better:
        assert load(tmp_path / f"{IDS['lstm']}.onnx").id == IDS["lstm"]


def test_an_evaluation_without_the_present_model_decides_nothing(tmp_path: Path) -> None:
    with pytest.raises(TickwatchError, match=f"says nothing about {IDS['gru']}"):
        publish(shipped("lstm"), results(tmp_path, lstm=(0.5, [1])), tmp_path, "gru")


def test_a_model_that_was_evaluated_on_what_it_learned_from_is_refused(tmp_path: Path) -> None:
    seen = results(tmp_path, load(shipped("lstm")).card.data_fingerprint, lstm=(0.5, [1]), gru=(0.4, [1]))
    with pytest.raises(TickwatchError, match="on the ticks that it learned from"):
        publish(shipped("lstm"), seen, tmp_path, "gru")
    assert list(tmp_path.glob("*.onnx")) == []
