"""The recurrent cells, equations in the open.

RNN   Elman (1990), Finding structure in time. Cognitive Science 14(2).
LSTM  Hochreiter & Schmidhuber (1997), Long short-term memory. Neural Computation 9(8); with the forget gate of
      Gers, Schmidhuber & Cummins (2000), Learning to forget. Neural Computation 12(10).
GRU   Cho et al. (2014), Learning phrase representations using RNN encoder-decoder. arXiv:1406.1078.

Shapes: T steps, B lanes, I inputs, H hidden, S numbers of carried state. Every cell maps x (T, B, I) and a state (B, S)
to outputs (T, B, H) and the next state (B, S). Gates are stacked in the order of the ONNX operators, so that an export
copies the weights as they are: LSTM input, output, forget, candidate; GRU update, reset, candidate. The inputs' part
W x + b of all T steps is one matrix product before the loop; only what depends on the last step stays inside.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from service.card import CellKind


def _uniform(*shape: int, hidden: int) -> nn.Parameter:
    """Uniform in +-1/sqrt(H), as torch.nn begins."""
    bound = 1.0 / math.sqrt(hidden)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class RNN(nn.Module):
    """h' = tanh(W x + R h + b). State: h, S = H."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W = _uniform(hidden, inputs, hidden=hidden)
        self.R = _uniform(hidden, hidden, hidden=hidden)
        self.b = _uniform(hidden, hidden=hidden)
        self.state_size = hidden

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = state  # (B, H)
        outputs = []
        for wx in (x @ self.W.T + self.b).unbind(0):  # (B, H) of each step
            h = torch.tanh(torch.addmm(wx, h, self.R.T))  # (B, H)
            outputs.append(h)
        return torch.stack(outputs), h  # (T, B, H), (B, H)


class LSTM(nn.Module):
    """A cell c that gates let in, keep and show. State: h then c, S = 2H.

    i, o, f = sigmoid(W x + R h + b)        input, output and forget gate
    g       = tanh(W x + R h + b)           candidate
    c'      = f * c + i * g
    h'      = o * tanh(c')
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.W = _uniform(4 * hidden, inputs, hidden=hidden)
        self.R = _uniform(4 * hidden, hidden, hidden=hidden)
        self.b = _uniform(4 * hidden, hidden=hidden)
        with torch.no_grad():  # remember at first: Gers et al. (2000); Jozefowicz et al. (2015), section 2.2
            self.b[2 * hidden : 3 * hidden] += 1.0
        self.state_size = 2 * hidden

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state.chunk(2, dim=1)  # (B, H) each
        hidden = h.shape[1]
        outputs = []
        for wx in (x @ self.W.T + self.b).unbind(0):  # (B, 4H) of each step
            gates, candidate = torch.split(torch.addmm(wx, h, self.R.T), [3 * hidden, hidden], dim=1)
            i, o, f = torch.sigmoid(gates).chunk(3, dim=1)  # (B, H) each
            c = f * c + i * torch.tanh(candidate)  # (B, H)
            h = o * torch.tanh(c)  # (B, H)
            outputs.append(h)
        return torch.stack(outputs), torch.cat((h, c), dim=1)  # (T, B, H), (B, 2H)


class GRU(nn.Module):
    """One state that is its own memory. State: h, S = H.

    z, r = sigmoid(W x + R h + b)           update and reset gate
    g    = tanh(W x + R (r * h) + b)        candidate; with `reset_after`: tanh(W x + b + r * (R h + b_reset))
    h'   = (1 - z) * g + z * h

    The reset gate stands before the matrix product as in Cho et al. (2014), ONNX `linear_before_reset=0`, which
    onnxruntime serves faster; `reset_after` is the form of cuDNN and torch.nn.GRU, kept to check one against the other.
    """

    def __init__(self, inputs: int, hidden: int, reset_after: bool = False) -> None:
        super().__init__()
        self.W = _uniform(3 * hidden, inputs, hidden=hidden)
        self.R = _uniform(3 * hidden, hidden, hidden=hidden)
        self.b = _uniform(3 * hidden, hidden=hidden)
        self.b_reset = _uniform(hidden, hidden=hidden) if reset_after else None
        self.state_size = hidden

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = state  # (B, H)
        hidden = h.shape[1]
        R_gates, R_candidate = torch.split(self.R, [2 * hidden, hidden])  # (2H, H), (H, H)
        outputs = []
        for wx in (x @ self.W.T + self.b).unbind(0):  # (B, 3H) of each step
            wx_gates, wx_candidate = torch.split(wx, [2 * hidden, hidden], dim=1)
            z, r = torch.sigmoid(torch.addmm(wx_gates, h, R_gates.T)).chunk(2, dim=1)  # (B, H) each
            if self.b_reset is None:
                g = torch.tanh(torch.addmm(wx_candidate, r * h, R_candidate.T))  # (B, H)
            else:
                g = torch.tanh(wx_candidate + r * torch.addmm(self.b_reset, h, R_candidate.T))  # (B, H)
            h = g + z * (h - g)  # (B, H)
            outputs.append(h)
        return torch.stack(outputs), h  # (T, B, H), (B, H)


Cell = RNN | LSTM | GRU
CELLS: dict[CellKind, type[Cell]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
