"""Hyperparameter search behind `tickwatch search`: Optuna proposes, `fit` tries, hopeless trials end early.

Akiba et al. (2019), Optuna. KDD. Proposals: tree-structured Parzen estimator, Bergstra et al. (2011), Algorithms for
hyper-parameter optimization. NeurIPS. Pruning: a trial ends whose best validation loss so far is worse than the median
of the others after as many epochs.

The study lives in a database, so any number of processes and machines may work on one. A trial whose process died is
seen by its missing heartbeat, and another process goes on at its checkpoint, or from its start on another machine.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import signal
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from service.connection import host_name
from service.errors import TickwatchError
from training.fit import CHECKPOINT, Epoch, Interrupted, Settings, fit
from training.history import History
from training.train import learnable, long_enough

optuna.logging.set_verbosity(optuna.logging.ERROR)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
CELLS = ("gru", "lstm", "rnn")
FIRST_EPOCHS = 2  # that no trial is pruned in: what they show is mostly the start of the learning rate
FIRST_TRIALS = 5  # that are never pruned: a median needs company
LOOK_S = 0.5  # between two looks at the study
OPENINGS = 5  # of a database, before its error is believed


@dataclass(frozen=True)
class Search:
    """Where the study is and how far to go: finished trials in all, seconds, processes here, epochs of a trial.

    `storage` is a database URL as SQLAlchemy takes it. A trial counts as dead after three heartbeats without a sign.
    """

    storage: str
    study: str
    trials: int
    timeout_s: float | None
    jobs: int
    epochs: int
    seed: int
    heartbeat_s: int = 20


def suggest(trial: optuna.Trial | optuna.trial.FixedTrial, epochs: int, seed: int) -> Settings:
    """The settings of a trial, rounded as the command line of `tickwatch train` is printed."""
    rate = trial.suggest_float("learning_rate", 1e-3, 5e-2, log=True)
    return Settings(
        cell=trial.suggest_categorical("cell", CELLS),  # type: ignore[arg-type]
        hidden=trial.suggest_int("hidden", 8, 64, step=8),
        bottleneck=trial.suggest_int("bottleneck", 2, 8),
        learning_rate=float(f"{rate:.3g}"),
        dropout=round(trial.suggest_float("dropout", 0.0, 0.3, step=0.05), 2),
        noise=round(trial.suggest_float("noise", 0.0, 0.3, step=0.05), 2),
        chunk=trial.suggest_int("sequence_length", 16, 128, step=16),
        epochs=epochs,
        seed=seed,
    )


def flags(settings: Settings) -> str:
    """The settings that a search varies, as options of `tickwatch train`."""
    return (
        f"--cell {settings.cell} --hidden {settings.hidden} --bottleneck {settings.bottleneck}"
        f" --learning-rate {settings.learning_rate:g} --dropout {settings.dropout:g} --noise {settings.noise:g}"
        f" --sequence-length {settings.chunk} --epochs {settings.epochs} --seed {settings.seed}"
    )


def search(
    history: History, wanted: Search, folder: Path, report: Callable[[optuna.Study], None], console: Console
) -> None:
    """Go on with the study until it has as many finished trials as wanted, or time is up; then `report` it.

    It is reported if one trial is complete, however this ends. Raises Interrupted on Ctrl-C, and TickwatchError where
    the database can't be used, the study was made from other data or with other epochs or seed, or the processes died;
    what is finished stays in the study.
    """
    used = long_enough(history, Settings(cell="gru", epochs=wanted.epochs, seed=wanted.seed), console)
    _, inputs = learnable(list(used.values()), Settings(cell="gru"))
    study = open_study(wanted)
    _same(study, {"fingerprint": history.fingerprint, "epochs": wanted.epochs, "seed": wanted.seed})
    _enqueue_defaults(study)
    deadline = math.inf if wanted.timeout_s is None else time.time() + wanted.timeout_s
    try:
        _run(study, wanted, (inputs, history.fingerprint, folder, deadline), console)
    finally:
        if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            report(study)


def _run(study: optuna.Study, wanted: Search, shared: tuple[Any, ...], console: Console) -> None:
    """Start the processes and watch over them."""
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and the database's connections
    stop = context.Event()
    workers = [context.Process(target=_work, args=(wanted, n, *shared, stop)) for n in range(wanted.jobs)]
    for worker in workers:
        worker.start()
    try:
        _watch(study, wanted.trials, workers, console)
    except KeyboardInterrupt:
        console.print("stopping after the epochs that run; Ctrl-C again ends at once")
        stop.set()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
        raise Interrupted(
            f"stopped with {finished(study)} of {wanted.trials} trials finished; the same command goes on with them"
        ) from None
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if len(failed) == wanted.jobs:
        raise TickwatchError(
            f"all {wanted.jobs} processes ended with exit code {failed[0]}; {finished(study)} of {wanted.trials} trials are"
            " finished, and the same command goes on with them"
        )


@contextmanager
def accepted() -> Iterator[None]:
    """Heartbeats have been called experimental since 2021, and a warning helps nobody who searches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def finished(study: optuna.Study) -> int:
    """Trials that came to an end, pruned ones too; not those whose process died or was interrupted."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def open_study(wanted: Search, seed: Sequence[int] = (0,)) -> optuna.Study:
    """The study, new or as it stands; `seed` is that of this process's proposals."""
    try:
        for _ in range(OPENINGS - 1):
            try:
                return _open(wanted, seed)
            except DBAPIError:  # another machine may be making the tables at the same moment
                time.sleep(LOOK_S)
        return _open(wanted, seed)
    except (SQLAlchemyError, ImportError) as error:
        shown = str(error).splitlines()[0].replace(wanted.storage, "that URL")
        raise TickwatchError(
            f"--storage: the database can't be used ({shown}); give a URL like sqlite:///study.db or"
            " postgresql+psycopg://user@host/name, whose driver is installed"
        ) from error


@accepted()
def _open(wanted: Search, seed: Sequence[int]) -> optuna.Study:
    sqlite = make_url(wanted.storage).get_backend_name() == "sqlite"
    storage = RDBStorage(
        wanted.storage,
        engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
        heartbeat_interval=wanted.heartbeat_s,
        grace_period=3 * wanted.heartbeat_s,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    return optuna.create_study(
        storage=storage,
        study_name=wanted.study,
        sampler=optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence(seed).generate_state(1)[0]), constant_liar=True
        ),
        pruner=optuna.pruners.MedianPruner(FIRST_TRIALS, FIRST_EPOCHS),
        load_if_exists=True,
    )


def _same(study: optuna.Study, identity: dict[str, object]) -> None:
    """Refuse to mix trials that can't be compared."""
    for name, value in identity.items():
        kept = study.user_attrs.get(name)
        if kept is None:
            study.set_user_attr(name, value)
        elif kept != value:
            was = "from other data" if name == "fingerprint" else f"with {name} {kept}"
            raise TickwatchError(f"study {study.study_name} was made {was}; give the same, or another --study")


def _enqueue_defaults(study: optuna.Study) -> None:
    """Every search begins with what `tickwatch train` does by itself, for each cell."""
    for cell in CELLS:
        usual = Settings(cell=cell)  # type: ignore[arg-type]
        names = ("cell", "hidden", "bottleneck", "learning_rate", "dropout", "noise")
        params = {name: getattr(usual, name) for name in names} | {"sequence_length": usual.chunk}
        study.enqueue_trial(params, user_attrs={"default": True}, skip_if_exists=True)


def _watch(
    study: optuna.Study, trials: int, workers: Sequence[multiprocessing.process.BaseProcess], console: Console
) -> None:
    """Show how far the study is, whoever works on it, until the processes here have ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("trials", total=trials)
        told: set[int] = set()
        while True:
            ended = not any(worker.is_alive() for worker in workers)
            for trial in study.get_trials(deepcopy=False, states=FINISHED):
                if trial.number not in told:
                    told.add(trial.number)
                    progress.console.print(f"trial {trial.number}: {_outcome(trial)}", highlight=False)
            progress.update(bar, completed=len(told))
            if ended:
                return
            workers[0].join(LOOK_S)


def _outcome(trial: optuna.trial.FrozenTrial) -> str:
    after = f" after {len(trial.intermediate_values)} epochs"
    value = "nothing" if trial.value is None else f"{trial.value:.4f}"
    cell = f"{trial.params['cell']} {trial.params['hidden']}/{trial.params['bottleneck']}"
    return f"validation {value}, {cell}{', pruned' + after if trial.state == TrialState.PRUNED else ''}"


@accepted()
def _work(
    wanted: Search,
    number: int,
    inputs: list[NDArray[np.float32]],
    fingerprint: str,
    folder: Path,
    deadline: float,
    stop: Event,
) -> None:
    """One process: trial after trial, until there are enough, time is up, `stop` is set, or nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the first process says when to stop
    parent = multiprocessing.parent_process()

    def over() -> bool:
        return stop.is_set() or time.time() >= deadline or not (parent and parent.is_alive())

    host = zlib.crc32(host_name().encode())  # no two processes may propose the same, nor one that goes on what it did
    study = open_study(wanted, (wanted.seed, number, host, len(open_study(wanted).trials)))
    while not over():
        optuna.storages.fail_stale_trials(study)
        done, running = finished(study), len(study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
        if done >= wanted.trials:
            return
        if done + running >= wanted.trials:  # wait: their process may die, and then they begin again
            stop.wait(LOOK_S)
            continue
        try:
            study.optimize(lambda trial: attempt(study, trial, wanted, inputs, fingerprint, folder, over), n_trials=1)
        except (Interrupted, UpdateFinishedTrialError):  # the latter: it slept so long that others took its trial
            continue


@accepted()
def attempt(
    study: optuna.Study,
    trial: optuna.Trial,
    wanted: Search,
    inputs: list[NDArray[np.float32]],
    fingerprint: str,
    folder: Path,
    over: Callable[[], bool],
) -> float:
    """The lowest validation loss of one trial. Raises Interrupted, with the trial queued again, as soon as it is `over`."""
    settings = suggest(trial, wanted.epochs, wanted.seed)
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(study.trials[trial.number])
    place = folder / "trials" / f"{wanted.study}-{trial.number if first is None else first}"
    place.mkdir(parents=True, exist_ok=True)
    told = 0

    def after_epoch(epochs: Sequence[Epoch]) -> None:
        nonlocal told
        for step, epoch in enumerate(epochs[told:], start=told):
            trial.report(epoch.validation, step)
        told = len(epochs)
        if not math.isfinite(epochs[-1].validation) or (told < wanted.epochs and trial.should_prune()):
            raise optuna.TrialPruned
        if told < wanted.epochs and over():
            RetryHeartbeatStaleTrialCallback()(study, study.trials[trial.number])
            raise Interrupted(f"trial {trial.number} stopped after {told} epochs")

    resume = first is not None and (place / CHECKPOINT).exists()
    try:
        fitted = fit(inputs, settings, fingerprint, place, resume, Console(quiet=True), after_epoch)
    except optuna.TrialPruned:
        shutil.rmtree(place)
        raise
    shutil.rmtree(place)
    return fitted.epochs[fitted.best].validation
