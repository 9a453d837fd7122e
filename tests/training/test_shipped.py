"""The models that ship compute what the equations in training/cells.py say and keep their promise, on real ticks if at hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from service.autoencoder import Model, load
from service.features import Prior, offline
from service.scorer import Scorer
from service.ticks import Ticks
from tests.samples import CELLS, REAL, needs_real_ticks, random_ticks, shipped
from training.alarms import false_alarms
from training.autoencoder import Autoencoder
from training.evaluate import TOLERANCE
from training.history import read_history
from training.inject import inject

TICKS = 10_000


def in_torch(model: Model) -> Autoencoder:
    """The network of a model file, rebuilt from its weights."""
    card = model.card
    network = Autoencoder(len(card.features), card.cell, card.hidden, card.bottleneck)
    weights = {
        w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in onnx.load(model.path).graph.initializer
    }
    with torch.no_grad():
        for side, cell in (("encoder", network.encoder), ("decoder", network.decoder)):
            for name in ("W", "R"):
                cell.get_parameter(name).copy_(weights[f"{side}.{name}"][0])
            b = cell.get_parameter("b")
            b.copy_(weights[f"{side}.b"][0, : len(b)])
        for name, layer in (("bottleneck", network.bottleneck), ("output", network.output)):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(weights[f"{name}.W"].T)
            layer.bias.copy_(weights[f"{name}.b"])
    return network.eval()


def prior(model: Model) -> Prior:
    scale = model.card.standardisation
    return Prior(np.array(scale.mean, np.float32), np.array(scale.std, np.float32))


def assert_equal_to_torch(model: Model, ticks: Ticks) -> None:
    """To 1e-5, step by step and in chunks, which agree to the bit."""
    x = offline(ticks, prior(model))[:TICKS]
    network = in_torch(model)
    with torch.no_grad():
        expected = network(torch.from_numpy(x[:, None]), torch.zeros(1, network.state_size))[0][:, 0].numpy()
    one_by_one = driven(model, x, [1] * len(x))
    chunks = driven(model, x, np.random.default_rng(0).integers(1, 400, 200).tolist())
    assert np.array_equal(one_by_one, chunks)
    assert np.abs(one_by_one - expected).max() < 1e-5


def driven(model: Model, x: NDArray[np.float32], steps: list[int]) -> NDArray[np.float32]:
    state, at, parts = np.zeros((1, model.recurrent), np.float32), 0, []
    for step in steps:
        part = x[at : at + step]
        if len(part):
            parts.append(model.reconstruct(part, np.zeros(len(part), np.int64), state))
        at += step
    return np.concatenate(parts)


@pytest.mark.parametrize("cell", CELLS)
def test_a_shipped_model_equals_its_equations_over_ten_thousand_ticks(cell: str) -> None:
    assert_equal_to_torch(load(shipped(cell)), random_ticks(TICKS, streams=1))


@cache
def real() -> list[Ticks]:
    return list(read_history(REAL).streams.values())


@needs_real_ticks
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("number", range(7))
def test_a_shipped_model_equals_its_equations_on_real_ticks(cell: str, number: int) -> None:
    assert_equal_to_torch(load(shipped(cell)), real()[number])


@needs_real_ticks
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("number", range(7))
def test_a_shipped_model_keeps_the_promise_of_its_budget_among_faults_in_real_ticks(cell: str, number: int) -> None:
    rates = []
    for injected in (inject(real()[number], seed) for seed in (91, 92, 93)):
        scorer = Scorer(load(shipped(cell)), 20.0)
        alert = scorer.score(injected.ticks).verdicts.score >= scorer.threshold
        normal = np.ones(len(alert), np.bool_)
        for event in injected.events:
            normal[event.start : event.stop + TOLERANCE] = False
        rates.append(false_alarms(alert[injected.clean :], normal[injected.clean :]))
    assert 12.0 <= np.mean(rates) <= 24.0
