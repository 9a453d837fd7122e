"""Trainings of a longer piece of work, each in a folder of its own: none is done twice, and an interrupted one goes on."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import msgspec
from rich.console import Console

from service.errors import TickwatchError
from training.fit import CHECKPOINT, Interrupted, Settings
from training.history import History
from training.train import code_revision, train


class Kept(msgspec.Struct, frozen=True):
    """What is remembered of a training, so that it need not be done again: CPU seconds, also of its parts that were
    interrupted, and the share of bits recalled after 1 to LONGEST steps, None until that task is done.
    """

    cpu_seconds: float
    finished: bool
    recalled: list[float] | None = None


def kept(folder: Path) -> Kept:
    """What is remembered of the training in this folder."""
    path = folder / "kept.json"
    return msgspec.json.decode(path.read_bytes(), type=Kept) if path.exists() else Kept(0.0, False)


def keep(folder: Path, remembered: Kept) -> None:
    """Remember this of the training in this folder."""
    (folder / "kept.json").write_bytes(msgspec.json.encode(remembered))


def trained(settings: Settings, folder: Path, history: History, console: Console) -> Path:
    """The model file of a training in this folder, which goes on where it was interrupted or is done already.

    Raises TickwatchError where the folder holds another training, and Interrupted on Ctrl-C.
    """
    before = kept(folder)
    model = folder / "model.onnx"
    if (folder / "settings.json").exists():
        _check(folder, settings, history)
    if before.finished:
        return model
    console.print(f"training {folder.name}", markup=False, highlight=False)
    began = time.process_time()
    finished = False
    try:
        train(lambda: history, model, settings, folder, (folder / CHECKPOINT).exists(), console)
        finished = True
    except Interrupted:
        raise Interrupted(f"stopped while {folder.name} was learning; the same command goes on") from None
    finally:
        if folder.exists():
            spent = before.cpu_seconds + time.process_time() - began
            keep(folder, msgspec.structs.replace(before, cpu_seconds=spent, finished=finished))
    return model


def _check(folder: Path, settings: Settings, history: History) -> None:
    """Refuse a folder in which something else was trained. Raises TickwatchError."""
    record = msgspec.json.decode((folder / "settings.json").read_bytes())
    wanted = {"settings": asdict(settings), "data_fingerprint": history.fingerprint, "code_revision": code_revision()}
    for name, what in (("settings", "settings"), ("data_fingerprint", "data"), ("code_revision", "code")):
        if record[name] != wanted[name]:
            raise TickwatchError(f"{folder} holds a training with other {what}; remove it, or give another --output")
