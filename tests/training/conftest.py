"""Random autoencoders and their model files, and ticks of a random market."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from service.card import FORMAT, CellKind, ModelCard, Standardisation
from service.features import FEATURE_SET, FEATURES, F
from training.autoencoder import Autoencoder
from training.calibrate import NEUTRAL
from training.export import export
from training.fit import steady


@pytest.fixture
def random_model() -> Callable[[CellKind], tuple[Autoencoder, bytes]]:
    """An autoencoder of the default size with random weights, and its model file."""

    def make(cell: CellKind) -> tuple[Autoencoder, bytes]:
        torch.manual_seed(11)
        model = Autoencoder(F, cell).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2.0)  # well into the gates' bends, where a wrong formula shows
            steady(model.encoder)  # as training leaves them: in a chaotic network rounding grows to disagreement
            steady(model.decoder)
        card = ModelCard(
            format=FORMAT,
            feature_set=FEATURE_SET,
            features=FEATURES,
            cell=cell,
            hidden=32,
            bottleneck=4,
            standardisation=Standardisation((0.0,) * F, (1.0,) * F),
            calibration=NEUTRAL,
            thresholds={"20": 3.5},
            data_fingerprint="none",
            code_revision="test",
            seed=11,
        )
        return model, export(model, card)

    return make


@pytest.fixture
def random_ticks() -> Callable[[int, int], pa.Table]:
    """So many ticks of a random walk with quotes around it, as the columns of a tick file; by seed."""

    def make(seed: int, ticks: int) -> pa.Table:
        generator = np.random.default_rng(seed)
        price = 100.0 + 0.01 * np.cumsum(generator.integers(-2, 3, ticks))
        spread = 0.01 * generator.integers(1, 4, ticks)
        return pa.table(
            {
                "ts": 1_700_000_000_000_000_000 + np.cumsum(generator.exponential(2e8, ticks).astype(np.int64)),
                "price": price,
                "size": 100.0 * generator.integers(0, 5, ticks),
                "bid": price - spread / 2,
                "ask": price + spread / 2,
            }
        )

    return make


@pytest.fixture
def _ctrl_c_counts() -> Iterator[None]:
    """SIGINT interrupts, although a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
