"""Loads a model file, refusing what it does not understand, and runs it over blocks of ticks."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from service import blocks, signature
from service.card import CARD_KEY, DIGEST_KEY, READABLE, ModelCard, Population, digest
from service.errors import TickwatchError
from service.features import FEATURE_SET, FEATURES, F
from service.judge import CHANNELS, C

MAX_FILE_BYTES = 64 * 2**20
MAX_HIDDEN = 2048
MOST_SHARES = 10
OPS = frozenset({"RNN", "LSTM", "GRU", "MatMul", "Add", "Tanh", "Split", "Concat", "Squeeze", "Unsqueeze", "Constant"})


class ModelRefused(TickwatchError):
    """A model file that is missing, damaged, foreign, or asks for what a tickwatch model never needs."""

    exit_code = 3


def find(name: str) -> Path:
    """The file of a model: `lstm` and `gru` are those that ship, in the installed package or in a checkout beside it."""
    if name not in ("lstm", "gru"):
        return Path(name)
    here = Path(__file__).parent
    installed = here / "models" / f"{name}.onnx"
    return installed if installed.exists() else here.parent / "models" / f"{name}.onnx"


@dataclass(frozen=True)
class Model:
    """A loaded model: its card, its id (cell and first digits of the file's digest), and the onnxruntime session."""

    card: ModelCard
    id: str
    path: Path
    recurrent: int  # float32 numbers of state per stream
    session: onnxruntime.InferenceSession

    def reconstruct(
        self, x: NDArray[np.float32], rows: NDArray[np.int64], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Reconstruction float32 [N, F] of `x` float32 [N, F], ticks in log order; `state` [R, S] at `rows` moves on in place."""
        order, planned = blocks.plan(rows)
        ordered = x.take(order, axis=0)  # in a quarter of the time of x[order]
        first = 0
        for steps, streams in planned:
            last = first + steps * len(streams)
            block = ordered[first:last].reshape(steps, len(streams), F)
            block[:], state[streams] = self.session.run(None, {"features": block, "state": state.take(streams, axis=0)})
            first = last
        result = np.empty_like(x)
        result[order] = ordered
        return result


def load(path: Path) -> Model:
    """The model in `path`. Raises ModelRefused, naming the file and what is wrong with it."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelRefused(f"model {path}: {size} bytes, the limit is {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"model {path}: cannot be read ({error.strerror}); give a file made by `tickwatch train`"
        ) from error
    distrust = signature.check(path, data)
    if distrust:
        raise ModelRefused(f"model {path}: {distrust}")
    return parse(data, path)


def parse(data: bytes, path: Path) -> Model:
    """The model in the bytes of a file; `path` is for messages. Raises ModelRefused."""
    try:
        return _open(_checked_card(data), data, path)
    except _Refused as refused:
        raise ModelRefused(f"model {path}: {refused}") from refused.__cause__


class _Refused(Exception):
    pass


def _checked_card(data: bytes) -> ModelCard:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise _Refused("not an ONNX file, or damaged") from error
    metadata = {p.key: p.value for p in model.metadata_props}
    if CARD_KEY not in metadata or DIGEST_KEY not in metadata:
        raise _Refused("not a file made by `tickwatch train` (it holds no tickwatch metadata), or cut short")
    try:
        intact = digest(data, metadata[DIGEST_KEY]) == metadata[DIGEST_KEY]
    except ValueError:
        intact = False
    if not intact:
        raise _Refused("its content does not match its sha256: damaged or changed since it was made")
    _check_graph(model)
    try:
        card = msgspec.json.decode(metadata[CARD_KEY], type=ModelCard)
    except msgspec.MsgspecError as error:
        raise _Refused(f"its metadata cannot be read: {error}") from error
    _check_card(card)
    return card


def _check_graph(model: onnx.ModelProto) -> None:
    graph = model.graph
    if {o.domain for o in model.opset_import} - {"", "ai.onnx"} or any(
        n.domain not in ("", "ai.onnx") for n in graph.node
    ):
        raise _Refused("uses operators of a foreign domain")
    if model.functions or model.training_info or graph.sparse_initializer:
        raise _Refused("holds functions, training information or sparse weights, which no tickwatch model has")
    foreign = sorted({n.op_type for n in graph.node} - OPS)
    if foreign:
        raise _Refused(f"uses operators that no tickwatch model has: {', '.join(foreign)}")
    graph_kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(a.type in graph_kinds for n in graph.node for a in n.attribute):
        raise _Refused("holds nested graphs, which no tickwatch model has")
    tensors = [*graph.initializer, *(a.t for n in graph.node for a in n.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise _Refused(f"weight {tensor.name!r} lies outside the file")
        if math.prod(tensor.dims) > MAX_FILE_BYTES or any(d > 4 * MAX_HIDDEN * 2 for d in tensor.dims):
            raise _Refused(f"weight {tensor.name!r} has the absurd shape {list(tensor.dims)}")
        values = onnx.numpy_helper.to_array(tensor)
        if not np.isfinite(values).all():
            raise _Refused(f"weight {tensor.name!r} holds numbers that are not finite")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise _Refused(f"not a valid ONNX graph: {str(error).splitlines()[0]}") from error


def _check_card(card: ModelCard) -> None:
    if card.format not in READABLE:
        raise _Refused(
            f"has format {card.format}, this version reads {' and '.join(map(str, READABLE))};"
            " train it again or use a matching version"
        )
    if card.feature_set != FEATURE_SET or tuple(card.features) != FEATURES:
        raise _Refused(
            f"was trained on feature set {card.feature_set}, this version makes {FEATURE_SET}; train it again"
        )
    if not 0 < card.hidden <= MAX_HIDDEN or not 0 < card.bottleneck <= MAX_HIDDEN:
        raise _Refused(f"has hidden size {card.hidden} and bottleneck {card.bottleneck}; allowed are 1 to {MAX_HIDDEN}")
    calibration = card.calibration
    if tuple(calibration.channels) != CHANNELS:
        raise _Refused("is calibrated for other channels than this version has; train it again")
    parts = {"level": calibration.level, "excess": calibration.excess, "shape": calibration.shape}
    for name, values in parts.items():
        low = 0.0 if name == "shape" else 1e-9
        if len(values) != C + 1 or not all(low <= v < 1e6 for v in values):
            raise _Refused(f"calibration {name} must hold {C + 1} finite numbers, none below {low:g}")
    if max(calibration.shape) > 0.9:
        raise _Refused("calibration shape must stay below 0.9: a heavier tail has no mean")
    means, stds = card.standardisation.mean, card.standardisation.std
    if len(means) != F or len(stds) != F or not all(map(math.isfinite, means)) or not all(0 < s < 1e9 for s in stds):
        raise _Refused(f"standardisation must hold {F} finite means and {F} positive standard deviations")
    if not card.thresholds or not all(0 < t < 100 for t in card.thresholds.values()):
        raise _Refused("holds no usable thresholds")
    _check_populations(card.populations)


def _check_populations(populations: tuple[Population, ...]) -> None:
    if len(populations) not in (0, F + 1) or not all(map(_is_spread, populations)):
        raise _Refused(f"populations must be none, or {F + 1} of rising edges and shares between them that add up to 1")


def _is_spread(population: Population) -> bool:
    edges, shares = population.edges, population.shares
    rising = all(map(math.isfinite, edges)) and all(a < b for a, b in pairwise(edges))
    whole = all(s >= 0 for s in shares) and math.isclose(sum(shares), 1.0, abs_tol=1e-6)
    return rising and whole and len(shares) == len(edges) + 1 <= MOST_SHARES


def _open(card: ModelCard, data: bytes, path: Path) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too small to share; one thread also keeps the bits
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # block shapes vary, and a plan for one shape must not change another's bits
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        recurrent = session.get_inputs()[1].shape[1]
        zeros = {"features": np.zeros((2, 3, F), np.float32), "state": np.zeros((3, recurrent), np.float32)}
        reconstruction, after = session.run(["reconstruction", "new_state"], zeros)
    except Exception as error:  # onnxruntime raises its own types, which share no base class
        raise _Refused(f"onnxruntime refuses it: {str(error).splitlines()[0]}") from error
    if reconstruction.shape != (2, 3, F) or after.shape != (3, recurrent) or not np.isfinite(reconstruction).all():
        raise _Refused("its outputs have unexpected shapes or values")
    return Model(card, f"{card.cell}-{hashlib.sha256(data).hexdigest()[:8]}", path, recurrent, session)


def threshold(card: ModelCard, alert_budget: float) -> float:
    """The score above which a tick alerts so that about `alert_budget` of 100,000 normal ticks do."""
    budgets = sorted((float(b), t) for b, t in card.thresholds.items())
    logs = [math.log(b) for b, _ in budgets]
    if not 0.1 <= alert_budget <= 10_000:
        raise TickwatchError(
            f"alert_budget {alert_budget:g}: give a number of alerts per 100,000 ticks from 0.1 to 10000"
        )
    inside = float(np.interp(math.log(alert_budget), logs, [t for _, t in budgets]))
    nearest = min(max(alert_budget, budgets[0][0]), budgets[-1][0])
    return inside - math.log10(alert_budget / nearest)  # beyond the measured budgets a decade of budget is one of score
