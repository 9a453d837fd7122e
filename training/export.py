"""The autoencoder as one ONNX file: its graph built node by node from the torch weights, its card inside, sealed.

By hand, because a general exporter once folded an epsilon away, and because both paths of the service, waves of many
streams and sequences of one, must run the very same operators to give the very same bits.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from service.card import CARD_KEY, DIGEST_KEY, UNSEALED, ModelCard, digest
from training.autoencoder import Autoencoder
from training.cells import GRU, LSTM, RNN, Cell

OPSET = 21
IR_VERSION = 10  # the oldest that knows this opset

Part = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]  # nodes and their weights


def _weight(name: str, value: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy(), np.float32), name)


def _cell(name: str, cell: Cell, inputs: str, states: list[str]) -> Part:
    """One cell: `inputs` [T, B, I] and `states`, each [1, B, H], to `name` [T, B, H] and each state with ".next"."""
    hidden = cell.R.shape[1]
    both = cell.b.new_zeros(2, len(cell.b))  # the operators add a bias to W x and another to R h; one of them is enough
    both[0] = cell.b
    nodes = [
        helper.make_node(
            type(cell).__name__,  # RNN, LSTM and GRU are the operators' names as well
            [inputs, f"{name}.W", f"{name}.R", f"{name}.b", "", *states],
            [f"{name}.steps", *(f"{state}.next" for state in states)],
            hidden_size=hidden,
        ),
        helper.make_node("Squeeze", [f"{name}.steps", "one"], [name]),  # the axis of directions
    ]
    if isinstance(cell, GRU):
        nodes[0].attribute.append(helper.make_attribute("linear_before_reset", 0))
    weights = {"W": cell.W[None], "R": cell.R[None], "b": both.reshape(1, -1)}
    return nodes, [_weight(f"{name}.{key}", value) for key, value in weights.items()]


def _linear(name: str, weight: Tensor, bias: Tensor, inputs: str, result: str) -> Part:
    nodes = [
        helper.make_node("MatMul", [inputs, f"{name}.W"], [f"{name}.product"]),
        helper.make_node("Add", [f"{name}.product", f"{name}.b"], [result]),
    ]
    return nodes, [_weight(f"{name}.W", weight.T), _weight(f"{name}.b", bias)]


def _network(model: Autoencoder, features: str, states: str, reconstruction: str, new_states: str) -> Part:
    """The autoencoder over states [1, B, S]: as its torch module, line by line."""
    kept = ("h", "c") if isinstance(model.encoder, LSTM) else ("h",)
    encoder = [f"encoder.{name}" for name in kept]
    decoder = [f"decoder.{name}" for name in kept]
    parts = [*encoder, *decoder]
    steps: list[Part] = [
        ([helper.make_node("Split", [states], parts, axis=2, num_outputs=len(parts))], []),
        _cell("encoder", model.encoder, features, encoder),
        _linear("bottleneck", model.bottleneck.weight, model.bottleneck.bias, "encoder", "squeezed"),
        ([helper.make_node("Tanh", ["squeezed"], ["code"])], []),
        _cell("decoder", model.decoder, "code", decoder),
        _linear("output", model.output.weight, model.output.bias, "decoder", reconstruction),
        ([helper.make_node("Concat", [f"{part}.next" for part in parts], [new_states], axis=2)], []),
    ]
    return [node for nodes, _ in steps for node in nodes], [weight for _, weights in steps for weight in weights]


def graph(model: Autoencoder) -> onnx.GraphProto:
    """From features [T, B, F] and state [B, S] to reconstruction [T, B, F] and new_state [B, S]; T and B are free."""
    unpack = [helper.make_node("Unsqueeze", ["state", "zero"], ["states"])]
    pack = [helper.make_node("Squeeze", ["new_states", "zero"], ["new_state"])]
    if isinstance(model.encoder, RNN):
        # onnxruntime's RNN, unlike its LSTM and GRU, multiplies a single row by another kernel with other rounding:
        # every lane gets a twin, so that there are always two rows and a stream's bits don't depend on its company.
        nodes, weights = _network(model, "features.twin", "states.twin", "reconstruction.twin", "new_states.twin")
        unpack += [
            helper.make_node("Concat", ["features", "features"], ["features.twin"], axis=1),
            helper.make_node("Concat", ["states", "states"], ["states.twin"], axis=1),
        ]
        pack = [
            helper.make_node("Split", [f"{n}.twin"], [n, f"{n}.unused"], axis=1, num_outputs=2)
            for n in ("reconstruction", "new_states")
        ] + pack
    else:
        nodes, weights = _network(model, "features", "states", "reconstruction", "new_states")
    axes = [numpy_helper.from_array(np.array([axis], np.int64), name) for axis, name in ((0, "zero"), (1, "one"))]
    features = model.output.out_features

    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    return helper.make_graph(
        [*unpack, *nodes, *pack],
        "tickwatch",
        [value("features", "T", "B", features), value("state", "B", model.state_size)],
        [value("reconstruction", "T", "B", features), value("new_state", "B", model.state_size)],
        [*axes, *weights],
    )


def export(model: Autoencoder, card: ModelCard) -> bytes:
    """The bytes of the .onnx file: checked by onnx, the card in it, sealed by its own digest."""
    proto = helper.make_model(graph(model), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(proto, {CARD_KEY: msgspec.json.encode(card).decode(), DIGEST_KEY: UNSEALED})
    onnx.checker.check_model(proto, full_check=True)
    unsealed: bytes = proto.SerializeToString(deterministic=True)
    return unsealed.replace(UNSEALED.encode(), digest(unsealed, UNSEALED).encode())
