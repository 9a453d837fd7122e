"""The model card: all that scoring needs beside the network, kept inside the model file and covered by its digest.

An .onnx file of ours carries two entries in `metadata_props`: `tickwatch`, the card as JSON, and `sha256`, the digest.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from service.judge import Calibration

FORMAT = 2
READABLE = (1, FORMAT)  # 1 has no populations
CARD_KEY = "tickwatch"
DIGEST_KEY = "sha256"
CellKind = Literal["rnn", "lstm", "gru"]
UNSEALED = "0" * 64  # stands where the digest will be, and again while it is checked


class Standardisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of each feature, F numbers each: a stream's prior until it has shown its own."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Population(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a number was spread in training: `shares` of it, each up to its edge, and the last one beyond all of them."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model is, how its input is standardised, and how its errors become scores.

    `thresholds` maps an alert budget (false alarms per 100,000 ticks, as text) to the score above which a tick alerts;
    `calibration` is where the judge's tails start. `populations` are those of each feature before it is standardised and, last,
    of the score: what drift is measured against; empty in models of format 1. It holds no clock time: same data, code and
    seed, same bytes.
    """

    format: int
    feature_set: str
    features: tuple[str, ...]
    cell: CellKind
    hidden: int
    bottleneck: int
    standardisation: Standardisation
    calibration: Calibration
    thresholds: dict[str, float]
    populations: tuple[Population, ...] = ()
    data_fingerprint: str
    code_revision: str
    seed: int

    @property
    def state_size(self) -> int:
        """Float32 numbers that encoder and decoder carry from tick to tick."""
        return 2 * self.hidden * (2 if self.cell == "lstm" else 1)


def digest(model: bytes, claimed: str) -> str:
    """SHA-256 of a model file, 64 hex digits, computed with zeros in the place of the digest it claims.

    Raises ValueError if `claimed` does not stand in the file exactly once.
    """
    if model.count(claimed.encode()) != 1:
        raise ValueError("the digest does not stand in the file exactly once")
    return hashlib.sha256(model.replace(claimed.encode(), UNSEALED.encode())).hexdigest()
