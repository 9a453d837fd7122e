"""A model file is loaded whole and unharmed, or refused in one clear line; its bits do not depend on the block."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import autoencoder
from service.autoencoder import ModelRefused, load
from service.card import CARD_KEY, DIGEST_KEY, UNSEALED, ModelCard, digest
from service.errors import TickwatchError
from service.features import F
from tests.samples import CELLS, shipped

MAX_BYTES = 300_000


def resealed(change: Callable[[onnx.ModelProto], None]) -> bytes:
    """The shipped GRU with a change and a digest that fits it, as an attacker would make it."""
    model = onnx.load(shipped("gru"))
    change(model)
    for entry in model.metadata_props:
        if entry.key == DIGEST_KEY:
            entry.value = UNSEALED
    data: bytes = model.SerializeToString()
    return data.replace(UNSEALED.encode(), digest(data, UNSEALED).encode())


def with_card(**changes: object) -> bytes:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == CARD_KEY:
                card = msgspec.json.decode(entry.value)
                entry.value = msgspec.json.encode(card | changes).decode()

    return resealed(change)


@pytest.mark.parametrize("cell", CELLS)
def test_the_models_that_ship_are_small_and_tell_where_they_come_from(cell: str) -> None:
    model = load(shipped(cell))
    assert shipped(cell).stat().st_size < MAX_BYTES
    assert model.id.startswith(f"{cell}-")
    assert model.card.cell == cell
    assert model.recurrent == model.card.state_size
    assert len(model.card.data_fingerprint) == len(model.card.code_revision) == 64


def test_loading_a_model_leaves_no_identifier_for_the_makers_of_onnxruntime(tmp_path: Path) -> None:
    load_one = "from service import autoencoder; autoencoder.load(autoencoder.find('gru'))"
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    subprocess.run([sys.executable, "-c", load_one], env=environment | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("cell", CELLS)
def test_plain_onnxruntime_gives_the_same_bits_for_any_mix_of_batch_sizes(cell: str) -> None:
    session = onnxruntime.InferenceSession(shipped(cell), providers=["CPUExecutionProvider"])
    model = load(shipped(cell))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 33, F)).astype(np.float32)
    zeros = np.zeros((33, model.recurrent), np.float32)
    expected, after = model.session.run(None, {"features": x, "state": zeros})
    state = zeros.copy()
    for t in range(len(x)):
        cuts = np.unique(rng.integers(1, 33, 3)).tolist()
        for rows in np.split(np.arange(33), cuts):
            out, new = session.run(
                ["reconstruction", "new_state"], {"features": x[t : t + 1, rows], "state": state[rows]}
            )
            assert np.array_equal(out[0], expected[t, rows])
            state[rows] = new
    assert np.array_equal(state, after)


def make_foreign() -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [value], [out])
    return bytes(helper.make_model(graph).SerializeToString())


def add_foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def add_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["features"], ["spare"]))


def add_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Tanh", ["features"], ["spare"], body=body))


def move_weights_outside(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[-1]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))


def poison_weights(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[-1]
    broken = np.full(weight.dims, np.nan, np.float32)
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))


def claim_absurd_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer[-1].dims[:] = [2**31, 2**31]


def add_function(model: onnx.ModelProto) -> None:
    model.functions.append(onnx.FunctionProto(name="f", domain="com.example"))


def cut_wire(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nowhere"


SHIPPED = shipped("gru").read_bytes()
SPREAD = {"edges": [0.0], "shares": [0.5, 0.5]}
DAMAGED = {
    "empty": (b"", "no tickwatch metadata|not an ONNX"),
    "text": (b"hello, this is not a model", "not an ONNX"),
    "truncated": (SHIPPED[: len(SHIPPED) // 2], "not an ONNX|cut short|sha256"),
    "one byte changed": (SHIPPED[:5000] + bytes([SHIPPED[5000] ^ 1]) + SHIPPED[5001:], "sha256|not an ONNX"),
    "appended": (SHIPPED + b"\x00" * 8, "sha256|not an ONNX"),
    "foreign": (make_foreign(), "tickwatch train"),
    "foreign domain": (resealed(add_foreign_domain), "foreign domain"),
    "unexpected operator": (resealed(add_operator), "Identity"),
    "nested graph": (resealed(add_loop), "nested graphs"),
    "external data": (resealed(move_weights_outside), "outside the file"),
    "NaN weights": (resealed(poison_weights), "not finite"),
    "absurd shape": (resealed(claim_absurd_shape), "absurd shape"),
    "functions": (resealed(add_function), "functions"),
    "broken graph": (resealed(cut_wire), "not a valid ONNX graph|refuses"),
    "later format": (with_card(format=99), "format 99"),
    "other features": (with_card(feature_set="tick-1"), "feature set tick-1"),
    "unknown field": (with_card(surprise=1), "surprise"),
    "no thresholds": (with_card(thresholds={}), "thresholds"),
    "absurd hidden": (with_card(hidden=10**9), "hidden size"),
    "infinite prior": (with_card(standardisation={"mean": [1e999] * F, "std": [1.0] * F}), "metadata|finite"),
    "few populations": (with_card(populations=[SPREAD] * F), "populations"),
    "falling edges": (
        with_card(populations=[SPREAD] * F + [{"edges": [1, 0], "shares": [0.5, 0.25, 0.25]}]),
        "populations",
    ),
    "shares of more": (with_card(populations=[SPREAD] * F + [{"edges": [1], "shares": [0.5, 0.6]}]), "populations"),
    "short calibration": (with_card(calibration={"channels": [], "level": [], "excess": [], "shape": []}), "channels"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_foreign_or_hostile_file_is_refused_in_one_clear_line(what: str, tmp_path: Path) -> None:
    data, reason = DAMAGED[what]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code != 0


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelRefused, match="cannot be read"):
            load(path)


def test_an_enormous_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.truncate(autoencoder.MAX_FILE_BYTES + 1)
    with pytest.raises(ModelRefused, match="limit"):
        load(path)


def card_with(thresholds: dict[str, float]) -> ModelCard:
    return msgspec.structs.replace(load(shipped("gru")).card, thresholds=thresholds)


def test_thresholds_are_interpolated_between_measured_budgets_and_extended_beyond_them() -> None:
    card = card_with({"10": 4.0, "1000": 2.0})
    assert autoencoder.threshold(card, 10) == 4.0
    assert autoencoder.threshold(card, 100) == pytest.approx(3.0)
    assert autoencoder.threshold(card, 1) == pytest.approx(5.0)
    assert autoencoder.threshold(card, 10_000) == pytest.approx(1.0)


@pytest.mark.parametrize("budget", [0.0, -1.0, 1e9, float("nan")])
def test_an_impossible_alert_budget_is_refused(budget: float) -> None:
    with pytest.raises(TickwatchError, match="alert_budget"):
        autoencoder.threshold(card_with({"10": 4.0}), budget)
