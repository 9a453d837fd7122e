"""The memory task tells cells that remember from those that can't, and gradients are followed to where they end."""

from __future__ import annotations

import numpy as np
import torch

from service.features import F
from training.autoencoder import Autoencoder
from training.memory import reach, recall


def test_a_trained_gru_remembers_and_an_untrained_one_guesses() -> None:
    steps: list[int] = []
    trained = recall("gru", 16, seed=1, steps=150, longest=10, progress=lambda: steps.append(1))
    untrained = recall("gru", 16, seed=1, steps=0, longest=10)
    assert len(trained) == len(untrained) == 10
    assert len(steps) == 150
    assert min(trained) > 0.95
    assert abs(np.mean(untrained) - 0.5) < 0.1


def test_gradients_reach_back_as_far_as_the_recurrence_carries_them() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(30, 3, F)).astype(np.float32)
    model = Autoencoder(F, "rnn", 8)
    through = reach(model, x)
    assert through.shape == (30,)
    assert through[0] == 1.0
    assert 0 < through[20] < 1e-2
    with torch.no_grad():
        model.encoder.R.mul_(0.0)
        model.decoder.R.mul_(0.0)
        model.encoder.R.add_(1e-9)  # the last state still counts, if hardly
    assert reach(model, x)[5] < 1e-12
