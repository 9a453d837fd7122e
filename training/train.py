"""From history to a model file: features, fit, calibrate, export, and a card in words. Behind `tickwatch train`."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from service import autoencoder
from service.card import FORMAT, ModelCard, Standardisation
from service.errors import TickwatchError
from service.features import FEATURE_SET, FEATURES, Prior, offline
from service.ticks import Ticks
from training.calibrate import NEUTRAL, calibrate, prior
from training.export import export
from training.fit import Fit, Settings, fit
from training.history import History
from training.modelcard import describe

NAMED = 10  # short streams that are told by name

# A change in any of these modules may change the model that comes out; modelcard only describes it.
SOURCES = {
    "service": ("breaks", "card", "features", "grid", "judge", "passages", "routine"),
    "training": ("alarms", "autoencoder", "calibrate", "cells", "export", "fit", "history", "tape", "train"),
}


@dataclass(frozen=True)
class Trained:
    """A finished run: ticks read, epochs (also those before a resume), the best one's validation loss, and the time."""

    ticks: int
    epochs: int
    validation: float
    seconds: float


def train(
    read: Callable[[], History], output: Path, settings: Settings, folder: Path, resume: bool, console: Console
) -> Trained:
    """Learn a detector from the history that `read` gives and write it to `output`, and its model card beside it.

    `folder` takes settings, curves, checkpoint and a copy of both. The same ticks, settings, code and kind of CPU give
    the same bytes. Raises TickwatchError, and Interrupted on Ctrl-C, from which `resume` goes on.
    """
    began = time.monotonic()
    _prepare(output, folder)
    history = read()
    console.print(
        f"{history.ticks:,} ticks of {len(history.streams)} streams; {history.rejected:,} rows could not be read"
    )
    if not resume:
        (folder / "settings.json").write_bytes(_run_record(settings, history))

    used = long_enough(history, settings, console)
    streams = list(used.values())
    given, inputs = learnable(streams, settings)
    fitted = fit(inputs, settings, history.fingerprint, folder, resume, console)
    _plot(fitted, folder / "curves.png")
    card = ModelCard(
        format=FORMAT,
        feature_set=FEATURE_SET,
        features=FEATURES,
        cell=settings.cell,
        hidden=settings.hidden,
        bottleneck=settings.bottleneck,
        standardisation=Standardisation(tuple(given.mean.tolist()), tuple(given.std.tolist())),
        calibration=NEUTRAL,
        thresholds={"100": 3.0},  # as improbable as the budget says, until the judge has been calibrated
        data_fingerprint=history.fingerprint,
        code_revision=code_revision(),
        seed=settings.seed,
    )
    with console.status("calibrating the judge"):
        found = calibrate(export(fitted.model, card), streams)
        model = export(fitted.model, msgspec.structs.replace(card, **found._asdict()))
        words = describe(autoencoder.parse(model, output), output.name, settings, fitted.epochs, history, used)
    kept = folder / "model.onnx"
    _write(kept, model, words)
    try:
        _write(output, model, words)
    except OSError as error:
        raise TickwatchError(f"{output} can't be written ({error.strerror}); the model is in {kept}") from error
    best = fitted.epochs[fitted.best]
    return Trained(history.ticks, len(fitted.epochs), best.validation, time.monotonic() - began)


def long_enough(history: History, settings: Settings, console: Console) -> dict[str, Ticks]:
    """The streams that fill a chunk of both parts; the others are named. Raises TickwatchError where there is none."""
    short = {name: len(ticks) for name, ticks in history.streams.items() if not settings.enough(len(ticks))}
    if len(short) == len(history.streams):
        name = max(short, key=short.__getitem__)
        raise TickwatchError(
            f"history is too short: the longest stream, {name}, has {short[name]} ticks; give more ticks, of one stream"
            f" at least {next(n for n in itertools.count() if settings.enough(n))}"
        )
    if short:
        named = ", ".join(f"{name} ({ticks} ticks)" for name, ticks in itertools.islice(short.items(), NAMED))
        more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
        console.print(f"too short to learn from and left out: {named}{more}", markup=False, highlight=False)
    return {name: ticks for name, ticks in history.streams.items() if name not in short}


def learnable(streams: list[Ticks], settings: Settings) -> tuple[Prior, list[NDArray[np.float32]]]:
    """What new streams are standardised by, from the parts to train on; and the features float32 [N, F] of each stream."""
    given = prior([t.take(np.arange(settings.trained(len(t)))) for t in streams])
    return given, [offline(t, given) for t in streams]


def _write(path: Path, model: bytes, words: str) -> None:
    path.write_bytes(model)
    path.with_suffix(".md").write_text(words, encoding="utf-8")


def code_revision() -> str:
    """SHA-256 of the sources that make a model, 64 hex digits; it needs no repository, and a wheel has it too."""
    digest = hashlib.sha256()
    for package, names in SOURCES.items():
        for name in names:
            digest.update((files(package) / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _prepare(output: Path, folder: Path) -> None:
    """Find out now, not after minutes of training, that a result has nowhere to go."""
    if output.suffix != ".onnx" or output.is_dir():
        raise TickwatchError(f"output {output} must be a file whose name ends with .onnx")
    for path in (output.parent, folder):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TickwatchError(f"folder {path} can't be made ({error.strerror}); choose another one") from error


def _run_record(settings: Settings, history: History) -> bytes:
    record = {
        "settings": asdict(settings),
        "data_fingerprint": history.fingerprint,
        "origin": history.origin,
        "code_revision": code_revision(),
        "ticks": {name: len(ticks) for name, ticks in history.streams.items()},
    }
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def _plot(fitted: Fit, path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="mean Huber loss of the reconstruction")
    number = range(1, len(fitted.epochs) + 1)
    axes.plot(number, [epoch.train for epoch in fitted.epochs], ".-", label="training, input spoiled")
    axes.plot(number, [epoch.validation for epoch in fitted.epochs], ".-", label="validation, input clean")
    axes.axvline(fitted.best + 1, color="grey", linestyle=":", label="kept")
    axes.legend()
    figure.savefig(path, dpi=120)
