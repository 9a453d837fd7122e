"""Every cell is what its paper says: the same outputs, states and gradients as torch.nn's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training.cells import GRU, LSTM, RNN, Cell

T, B, INPUTS, H = 7, 5, 3, 4
# Our gates are stacked as ONNX has them, torch's as its documentation says; each list names our gates in torch's order.
ORDER = {"RNN": [0], "LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}
PAIRS = [
    pytest.param(lambda: RNN(INPUTS, H), nn.RNN, id="rnn"),
    pytest.param(lambda: LSTM(INPUTS, H), nn.LSTM, id="lstm"),
    pytest.param(lambda: GRU(INPUTS, H, reset_after=True), nn.GRU, id="gru"),
]


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(7)


def rows(gates: Tensor, kind: str) -> Tensor:
    return torch.cat([gates.chunk(len(ORDER[kind]))[i] for i in ORDER[kind]])


Kind = type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]


def twin(cell: Cell, kind: Kind) -> nn.RNNBase:
    """torch's module with the cell's weights; its second bias is zero but where the GRU's candidate needs one."""
    name = type(cell).__name__
    module = kind(INPUTS, H).double()
    reset = torch.zeros(len(cell.b), dtype=torch.float64)
    if isinstance(cell, GRU) and cell.b_reset is not None:
        reset[2 * H :] = cell.b_reset
    weights = {"weight_ih_l0": rows(cell.W, name), "weight_hh_l0": rows(cell.R, name)}
    module.load_state_dict(weights | {"bias_ih_l0": rows(cell.b, name), "bias_hh_l0": reset})
    return module


@pytest.mark.parametrize(("make", "kind"), PAIRS)
def test_a_cell_gives_the_outputs_states_and_gradients_of_torch(make: Callable[[], Cell], kind: Kind) -> None:
    cell = make().double()
    module = twin(cell, kind)
    x = torch.randn(T, B, INPUTS, dtype=torch.float64, requires_grad=True)
    state = torch.randn(B, cell.state_size, dtype=torch.float64, requires_grad=True)
    twin_x, twin_state = (t.detach().clone().requires_grad_() for t in (x, state))

    outputs, after = cell(x, state)
    parts = [part.unsqueeze(0).contiguous() for part in torch.split(twin_state, H, dim=1)]
    twin_outputs, twin_after = module(twin_x, tuple(parts) if len(parts) > 1 else parts[0])
    twin_after = torch.cat(twin_after if isinstance(twin_after, tuple) else (twin_after,), dim=2).squeeze(0)
    torch.testing.assert_close(outputs, twin_outputs)
    torch.testing.assert_close(after, twin_after)

    weights = torch.randn_like(outputs)
    ((outputs * weights).sum() + after.square().sum()).backward()
    ((twin_outputs * weights).sum() + twin_after.square().sum()).backward()
    torch.testing.assert_close(x.grad, twin_x.grad)
    torch.testing.assert_close(state.grad, twin_state.grad)
    name = type(cell).__name__
    gradients = {n: p.grad for n, p in cell.named_parameters() if p.grad is not None}
    expected = {n.removesuffix("_l0"): p.grad for n, p in module.named_parameters() if p.grad is not None}
    torch.testing.assert_close(rows(gradients["W"], name), expected["weight_ih"])
    torch.testing.assert_close(rows(gradients["R"], name), expected["weight_hh"])
    torch.testing.assert_close(rows(gradients["b"], name), expected["bias_ih"])
    if "b_reset" in gradients:
        torch.testing.assert_close(gradients["b_reset"], expected["bias_hh"][2 * H :])


def test_the_two_forms_of_the_gru_differ_only_in_where_the_reset_gate_stands() -> None:
    original, after = GRU(INPUTS, H), GRU(INPUTS, H, reset_after=True)
    after.load_state_dict(original.state_dict() | {"b_reset": torch.zeros(H)})
    x, state = torch.randn(T, B, INPUTS), torch.randn(B, H)
    assert not torch.allclose(original(x, state)[0], after(x, state)[0], atol=1e-3)
    with torch.no_grad():
        for cell in (original, after):
            cell.b[H : 2 * H] = 100.0  # reset gate open: r = 1, where r * (R h) = R (r * h)
    torch.testing.assert_close(original(x, state)[0], after(x, state)[0])


@pytest.mark.parametrize(
    "make", [lambda: RNN(INPUTS, H), lambda: LSTM(INPUTS, H), lambda: GRU(INPUTS, H)], ids=["rnn", "lstm", "gru"]
)
def test_carried_state_makes_two_halves_equal_to_the_whole(make: Callable[[], Cell]) -> None:
    cell = make().double()
    x, state = torch.randn(T, B, INPUTS, dtype=torch.float64), torch.zeros(B, cell.state_size, dtype=torch.float64)
    whole, end = cell(x, state)
    first, between = cell(x[:3], state)
    second, after = cell(x[3:], between)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(after, end)
