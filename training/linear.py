"""Our own detector with the network taken out, or a linear one in its place: what does the recurrence add?

Features, judge, fusion, calibration and serving path stay the same, because the stand-in is a model file like any other.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.decomposition import PCA

from service.autoencoder import Model, parse, threshold
from service.card import CARD_KEY, DIGEST_KEY, FORMAT, UNSEALED, ModelCard, Standardisation, digest
from service.features import FEATURE_SET, FEATURES, F, Prior, offline
from service.scorer import Scorer
from service.ticks import Ticks
from training.calibrate import NEUTRAL, calibrate, prior
from training.evaluate import Candidate, Detector
from training.export import IR_VERSION, OPSET

BOTTLENECK = 4  # principal components: as many numbers as the networks squeeze a tick into
ANY_BUDGET = 20.0  # scores don't depend on it


def no_network(history: list[Ticks]) -> Candidate:
    """The judge on the features alone: every tick is expected to be an average one."""
    given = prior(history)
    return served("no network", _fitted(np.zeros((F, F), np.float32), given, history), True)


def pca_autoencoder(history: list[Ticks]) -> Candidate:
    """The judge on what the first principal components of a tick's features leave of it."""
    given = prior(history)
    pca = PCA(BOTTLENECK).fit(np.concatenate([offline(ticks, given) for ticks in history]))
    projection = (pca.components_.T @ pca.components_).astype(np.float32)
    return served("PCA autoencoder", _fitted(projection, given, history), True)


def served(group: str, model: Model, is_baseline: bool = False) -> Candidate:
    """A model as the service runs it."""

    def prepare(_head: Ticks) -> Detector:
        return lambda ticks: Scorer(model, ANY_BUDGET).score(ticks).verdicts.score

    return Candidate(group if is_baseline else model.id, group, is_baseline, prepare, partial(threshold, model.card))


def _fitted(projection: NDArray[np.float32], given: Prior, history: list[Ticks]) -> Model:
    """The model that rebuilds x as x `projection`, calibrated."""
    card = ModelCard(
        format=FORMAT,
        feature_set=FEATURE_SET,
        features=FEATURES,
        cell="rnn",
        hidden=1,
        bottleneck=BOTTLENECK,
        standardisation=Standardisation(tuple(given.mean.tolist()), tuple(given.std.tolist())),
        calibration=NEUTRAL,
        thresholds={"100": 3.0},
        data_fingerprint="",
        code_revision="",
        seed=0,
    )
    finished = msgspec.structs.replace(card, **calibrate(_file(projection, card), history)._asdict())
    return parse(_file(projection, finished), Path("the linear model"))


def _file(projection: NDArray[np.float32], card: ModelCard) -> bytes:
    """A model file whose network is one matrix and whose state, one number, never moves."""

    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "projection"], ["reconstruction"]),
            helper.make_node("Add", ["state", "zero"], ["new_state"]),
        ],
        "linear",
        [value("features", "T", "B", F), value("state", "B", 1)],
        [value("reconstruction", "T", "B", F), value("new_state", "B", 1)],
        [numpy_helper.from_array(projection, "projection"), numpy_helper.from_array(np.zeros(1, np.float32), "zero")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(proto, {CARD_KEY: msgspec.json.encode(card).decode(), DIGEST_KEY: UNSEALED})
    unsealed: bytes = proto.SerializeToString(deterministic=True)
    return unsealed.replace(UNSEALED.encode(), digest(unsealed, UNSEALED).encode())
