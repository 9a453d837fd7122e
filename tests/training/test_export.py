"""The ONNX file computes what torch computes, gives the same bits however it is driven, and is sealed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from service.card import CARD_KEY, DIGEST_KEY, CellKind, ModelCard, digest
from service.features import F
from training.autoencoder import Autoencoder
from training.cells import GRU

RandomModel = Callable[[CellKind], tuple[Autoencoder, bytes]]
CELLS: list[CellKind] = ["rnn", "lstm", "gru"]
every_cell = pytest.mark.parametrize("cell", CELLS)


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def drive(
    run: onnxruntime.InferenceSession, x: NDArray[np.float32], chunks: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reconstruction and last state of x [T, B, F] when it comes in chunks of these many steps."""
    state = np.zeros((x.shape[1], run.get_inputs()[1].shape[1]), np.float32)
    results = []
    for part in np.split(x, np.cumsum(chunks)[:-1]):
        result, state = run.run(["reconstruction", "new_state"], {"features": part, "state": state})
        results.append(result)
    return np.concatenate(results), state


def some_features(steps: int, lanes: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_t(3, (steps, lanes, F)).clip(-5, 5).astype(np.float32)


def mixed(total: int, longest: int) -> list[int]:
    sizes = np.random.default_rng(5).integers(1, longest + 1, total)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), total)]
    return [*sizes.tolist(), total - int(sizes.sum())]


@every_cell
def test_onnxruntime_agrees_with_torch_over_ten_thousand_ticks(cell: CellKind, random_model: RandomModel) -> None:
    model, file = random_model(cell)
    x = some_features(10_000, 1)
    with torch.no_grad():
        expected, state = (t.numpy() for t in model(torch.from_numpy(x), torch.zeros(1, model.state_size)))
    for chunks in ([1] * 10_000, mixed(10_000, 300)):
        reconstruction, after = drive(session(file), x, chunks)
        np.testing.assert_allclose(reconstruction, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(after, state, rtol=0, atol=1e-5)


@every_cell
def test_a_stream_has_the_same_bits_in_any_batch_and_any_chunks(cell: CellKind, random_model: RandomModel) -> None:
    run = session(random_model(cell)[1])
    steps, lanes = 60, 257
    x = some_features(steps, lanes)
    whole, end = drive(run, x, [steps])
    for size in (1, 2, 3, 7, 8, 16, 33, 100, lanes):
        for chunks in ([steps], [1] * steps, mixed(steps, 9)):
            first = lanes - size  # the last lanes of the batch, so that their neighbours differ too
            some, after = drive(run, np.ascontiguousarray(x[:, first:]), chunks)
            np.testing.assert_array_equal(some.view(np.int32), whole[:, first:].view(np.int32))
            np.testing.assert_array_equal(after.view(np.int32), end[first:].view(np.int32))


def test_the_gru_is_the_operator_with_the_reset_gate_before_the_product() -> None:
    torch.manual_seed(2)
    cell = GRU(3, 4)
    weights = {"W": cell.W[None], "R": cell.R[None], "B": torch.cat((cell.b, torch.zeros(12)))[None]}
    node = onnx.helper.make_node("GRU", ["x", *weights, "", "h"], ["y"], hidden_size=4, linear_before_reset=0)
    x, h = torch.randn(6, 2, 3), torch.randn(2, 4)
    feed = {"x": x, "h": h[None]} | weights
    inputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, list(t.shape)) for n, t in feed.items()]
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [6, 1, 2, 4])
    graph = onnx.helper.make_graph([node], "gru", inputs, [result])
    opsets = [onnx.helper.make_opsetid("", 21)]
    file = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    (y,) = session(file).run(None, {name: tensor.detach().numpy() for name, tensor in feed.items()})
    np.testing.assert_allclose(y[:, 0], cell(x, h)[0].detach().numpy(), atol=1e-6)


@every_cell
def test_the_file_holds_its_card_and_a_digest_of_all_its_bytes(cell: CellKind, random_model: RandomModel) -> None:
    model, file = random_model(cell)
    held = {p.key: p.value for p in onnx.load_model_from_string(file).metadata_props}
    card = msgspec.json.decode(held[CARD_KEY], type=ModelCard)
    assert (card.cell, card.state_size) == (cell, model.state_size)
    assert digest(file, held[DIGEST_KEY]) == held[DIGEST_KEY]
    for at in range(0, len(file), len(file) // 50):
        damaged = file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]
        try:
            assert digest(damaged, held[DIGEST_KEY]) != held[DIGEST_KEY]
        except ValueError:
            assert held[DIGEST_KEY].encode() not in damaged  # the bit that flipped was one of the digest's own


def test_a_file_without_the_digest_it_claims_is_refused(random_model: RandomModel) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        digest(random_model("gru")[1], "ab" * 32)


@every_cell
def test_the_file_is_small_and_the_same_every_time(cell: CellKind, random_model: RandomModel) -> None:
    file = random_model(cell)[1]
    assert file == random_model(cell)[1]
    assert len(file) < 300_000
