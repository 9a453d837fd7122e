"""The recurrent autoencoder: a stream's features squeezed through a bottleneck and rebuilt, tick by tick.

Encoder-decoder after Malhotra et al. (2016), LSTM-based encoder-decoder for multi-sensor anomaly detection,
arXiv:1607.00148, but causal: both cells carry their state from tick to tick, so there is no window and a tick's
reconstruction is ready when the tick is. What the bottleneck can't carry, and the decoder can't know from the past, is
the error that the judge reads.

Shapes: T steps, B lanes, F features, H hidden, Z bottleneck, S state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.card import CellKind
from training.cells import CELLS


class Autoencoder(nn.Module):
    """features (T, B, F) and state (B, S) -> reconstruction (T, B, F) and the next state (B, S).

    The state is the encoder's, then the decoder's; zeros for a new stream.
    """

    def __init__(
        self, features: int, cell: CellKind, hidden: int = 32, bottleneck: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = CELLS[cell](features, hidden)
        self.dropout = nn.Dropout(dropout)
        self.bottleneck = nn.Linear(hidden, bottleneck)
        self.decoder = CELLS[cell](bottleneck, hidden)
        self.output = nn.Linear(hidden, features)
        self.state_size = self.encoder.state_size + self.decoder.state_size

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        encoder, decoder = state.chunk(2, dim=1)  # (B, S/2) each
        hidden, encoder = self.encoder(features, encoder)  # (T, B, H)
        code = torch.tanh(self.bottleneck(self.dropout(hidden)))  # (T, B, Z)
        hidden, decoder = self.decoder(code, decoder)  # (T, B, H)
        return self.output(hidden), torch.cat((encoder, decoder), dim=1)  # (T, B, F), (B, S)
