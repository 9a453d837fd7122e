"""Training learns, stops when it no longer does, and an interruption changes nothing about its result."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from service.card import CellKind
from service.errors import TickwatchError
from training.autoencoder import Autoencoder
from training.fit import (
    LARGEST_GAIN,
    Epoch,
    Fit,
    Interrupted,
    Settings,
    fit,
    learning_rate,
    reconstruction_error,
    spoil,
)

SMALL = Settings(cell="gru", hidden=12, bottleneck=2, epochs=4, lanes=8, chunk=32, learning_rate=1e-2)
QUIET = Console(quiet=True)


def waves(seed: int, ticks: int = 6_000) -> NDArray[np.float32]:
    """Six features that are all shadows of one phase: two numbers are enough to tell them."""
    generator = np.random.default_rng(seed)
    phase = np.cumsum(0.2 + 0.05 * generator.normal(size=ticks))[:, None]
    return np.sin(phase + np.arange(6)).astype(np.float32) + generator.normal(0, 0.05, (ticks, 6)).astype(np.float32)


def train(settings: Settings, folder: Path, resume: bool = False, console: Console = QUIET) -> Fit:
    return fit([waves(1), waves(2, 2_000)], settings, "waves", folder, resume, console)


def error(model: Autoencoder, x: NDArray[np.float32]) -> float:
    with torch.no_grad():
        reconstruction, _ = model(torch.from_numpy(x)[:, None], torch.zeros(1, model.state_size))
    return float((reconstruction[100:, 0] - torch.from_numpy(x)[100:]).square().mean())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_trained_autoencoder_rebuilds_ticks_it_has_never_seen(cell: CellKind, tmp_path: Path) -> None:
    settings = replace(SMALL, cell=cell, epochs=8)
    torch.manual_seed(0)
    untrained = Autoencoder(6, cell, settings.hidden, settings.bottleneck).eval()
    fitted = train(settings, tmp_path)
    unseen = waves(3)
    assert error(fitted.model, unseen) < 0.2 * min(error(untrained, unseen), float(unseen.var()))
    assert fitted.epochs[fitted.best].validation == min(epoch.validation for epoch in fitted.epochs)


class CtrlC(io.StringIO):
    """A terminal at which someone presses Ctrl-C shortly after the second epoch is reported."""

    def write(self, text: str) -> int:
        if "epoch 2:" in text:
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
        return super().write(text)


@pytest.fixture
def _ctrl_c_counts() -> Iterator[None]:
    """SIGINT interrupts, although a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_counts")
def test_an_interrupted_run_resumes_to_the_very_same_weights(tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=10, patience=10)
    whole = train(settings, tmp_path)
    cut = tmp_path / "cut"
    cut.mkdir()
    with pytest.raises(Interrupted, match=r"stopped in epoch \d+ of 10; .* go on with --resume"):
        train(settings, cut, console=Console(file=CtrlC()))
    resumed = train(settings, cut, resume=True)
    assert resumed.epochs == whole.epochs
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_whoever_watches_the_epochs_may_end_the_fit_and_go_on_later(tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=4, patience=4)
    seen: list[int] = []

    def stop(epochs: Sequence[Epoch]) -> None:
        seen.append(len(epochs))
        if len(epochs) == 2:
            raise Interrupted("enough for now")

    with pytest.raises(Interrupted, match="enough for now"):
        fit([waves(1)], settings, "waves", tmp_path, False, QUIET, stop)
    resumed = fit([waves(1)], settings, "waves", tmp_path, True, QUIET, lambda epochs: seen.append(len(epochs)))
    assert seen == [1, 2, 3, 4]
    (tmp_path / "whole").mkdir()
    assert resumed.epochs == fit([waves(1)], settings, "waves", tmp_path / "whole", False, QUIET).epochs


def test_losses_of_different_sequence_lengths_are_measured_alike(tmp_path: Path) -> None:
    short, long = (replace(SMALL, chunk=chunk, learning_rate=1e-12, epochs=1) for chunk in (16, 96))
    assert train(short, tmp_path).epochs[0].validation == pytest.approx(train(long, tmp_path).epochs[0].validation)


def test_resuming_a_finished_run_gives_its_model_again(tmp_path: Path) -> None:
    first = train(replace(SMALL, epochs=1), tmp_path)
    again = train(replace(SMALL, epochs=1), tmp_path, resume=True)
    assert again.epochs == first.epochs
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


def test_a_checkpoint_of_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TickwatchError, match=r"no checkpoint .* run without --resume"):
        train(SMALL, tmp_path, resume=True)
    train(replace(SMALL, epochs=1), tmp_path)
    with pytest.raises(TickwatchError, match="was made with hidden 12, epochs 1;"):
        train(replace(SMALL, hidden=13), tmp_path, resume=True)
    with pytest.raises(TickwatchError, match="made from other data"):
        fit([waves(5)], replace(SMALL, epochs=1), "other", tmp_path, resume=True, console=QUIET)


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(3_000, 6)).astype(np.float32)
    settings = replace(SMALL, bottleneck=1, epochs=60, patience=2, learning_rate=3e-2, mask=0.0, noise=0.0)
    fitted = fit([noise], settings, "noise", tmp_path, resume=False, console=QUIET)
    assert len(fitted.epochs) < 60
    assert fitted.best == len(fitted.epochs) - 1 - settings.patience


def test_no_gate_magnifies_the_state_without_limit(tmp_path: Path) -> None:
    model = train(replace(SMALL, cell="lstm", learning_rate=0.3, epochs=2), tmp_path).model
    for cell in (model.encoder, model.decoder):
        gains = torch.linalg.matrix_norm(cell.R.detach().view(4, 12, 12), ord=2)
        assert float(gains.max()) == pytest.approx(LARGEST_GAIN)  # so steep a rate would go far beyond


def test_an_error_in_a_missing_feature_costs_nothing() -> None:
    x = torch.tensor([[[1.0, 0.0]]])  # one step, one lane, the second feature missing
    loss = reconstruction_error(x, torch.tensor([[[0.5, 9.0]]]), huber=1.0)
    torch.testing.assert_close(loss, torch.tensor([0.125]))


def test_spoiling_hides_the_share_of_features_that_was_asked_for() -> None:
    torch.manual_seed(0)
    spoiled = spoil(torch.ones(100, 50, 20), noise=0.1, mask=0.25)
    there = spoiled[spoiled != 0.0]
    assert there.numel() / spoiled.numel() == pytest.approx(0.75, abs=0.01)
    assert float(there.std()) == pytest.approx(0.1, rel=0.02)


def test_the_learning_rate_rises_shortly_then_falls_to_almost_nothing() -> None:
    rates = [learning_rate(SMALL, progress) for progress in np.linspace(0.001, 1.0, 1000)]
    assert max(rates) == pytest.approx(SMALL.learning_rate, rel=0.01)
    assert np.argmax(rates) < 15
    assert rates[-1] == pytest.approx(0.02 * SMALL.learning_rate)


def test_a_run_reports_every_epoch_where_there_is_no_terminal(tmp_path: Path) -> None:
    log = io.StringIO()
    fitted = train(replace(SMALL, epochs=2), tmp_path, console=Console(file=log))
    assert [line.partition(", best")[0] for line in log.getvalue().splitlines()] == [
        f"epoch {i}: loss {epoch.train:.4f}, validation {epoch.validation:.4f}"
        for i, epoch in enumerate(fitted.epochs, start=1)
    ]
