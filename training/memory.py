"""How far back a recurrent cell remembers, and how far back its gradients reach.

The task: a marked bit, then bits that don't matter, and at every step the marked one must be told. It is the latch of
Bengio, Simard & Frasconi (1994), "Learning long-term dependencies with gradient descent is difficult", IEEE Transactions
on Neural Networks 5(2), with the marker of Hochreiter & Schmidhuber (1997): a cell must let one input in and keep the
others out.

Shapes: T steps, B sequences, H hidden, S state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from service.card import CellKind
from training.autoencoder import Autoencoder
from training.cells import CELLS
from training.fit import CLIP_NORM, reconstruction_error

LONGEST: Final = 200  # steps between the bit and the last question
BATCH: Final = 64
TESTED: Final = 2_000  # sequences of the test


def recall(
    cell: CellKind,
    hidden: int,
    seed: int,
    steps: int,
    longest: int = LONGEST,
    progress: Callable[[], object] = lambda: None,
) -> list[float]:
    """Share of bits told rightly 1 to `longest` steps after they were shown; 0.5 is chance.

    `steps` are the optimiser's; after each, `progress` is called.
    """
    torch.set_num_threads(1)  # steps this small run slower on two
    torch.manual_seed(seed)
    network = CELLS[cell](2, hidden)
    told = nn.Linear(hidden, 1)
    parameters = [*network.parameters(), *told.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=3e-3)

    def answers(x: Tensor) -> Tensor:
        outputs, _ = network(x, torch.zeros(x.shape[1], network.state_size))  # (T, B, H)
        logits: Tensor = told(outputs)[1:, :, 0]
        return logits

    for _ in range(steps):
        x, bit = _sequences(BATCH, longest)
        logits = answers(x)
        loss = binary_cross_entropy_with_logits(logits, bit.expand_as(logits))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimiser.step()
        progress()
    with torch.no_grad():
        x, bit = _sequences(TESTED, longest)
        right = (answers(x) > 0.0) == (bit > 0.5)  # (T, B)
    return list(right.double().mean(dim=1).tolist())


def _sequences(count: int, longest: int) -> tuple[Tensor, Tensor]:
    """Inputs (longest + 1, B, 2): bits of -1 or 1, and the mark of the first one; that bit (B,) as 0 or 1."""
    bits = torch.randint(2, (longest + 1, count)).float()
    mark = torch.zeros_like(bits)
    mark[0] = 1.0
    return torch.stack([2.0 * bits - 1.0, mark], dim=2), bits[0]


def reach(model: Autoencoder, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Norm of the gradient of a tick's loss by the state k ticks before, over that by the last, float64 [T].

    `x` float32 [T, B, F] are T ticks of B streams or places; the norm is the median over them.
    """
    states: list[Tensor] = []
    state = torch.zeros(x.shape[1], model.state_size)
    for step in torch.from_numpy(x):
        state = state.detach().requires_grad_() if not states else state
        state.retain_grad()
        states.append(state)
        reconstruction, state = model(step[None], state)
    reconstruction_error(torch.from_numpy(x[-1:]), reconstruction, huber=1.0).sum().backward()  # type: ignore[no-untyped-call]
    norms = torch.stack([s.grad.norm(dim=1) for s in states if s.grad is not None])  # (T, B)
    relative = (norms / norms[-1]).flip(0).median(dim=1).values
    return np.asarray(relative.double().numpy())
