"""How a network is told what is no image: a scale and a shift of its features (FiLM, Perez et al., AAAI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.batches.condition import n_condition_values

_HIDDEN = 32
_USUAL_MM = {
    "position": ((0.0, 0.0, 0.0), (15.0, 15.0, 15.0)),
    "slice_thickness": ((3.0,), (2.0,)),
    "spacing": ((0.5, 0.5, 2.5), (0.2, 0.2, 2.0)),
}
"""About where each number lies, and how far from there: a round middle and deviation in millimetres. They are of no
cohort, so that a network means the same wherever it is used."""


class Film(nn.Module):
    """Scale and shift of each channel, from what the network is told; exactly the identity at the start.

    The numbers in millimetres are standardised and go through one hidden layer. The layer behind it starts at zero: its
    weights are plain parameters, so that no initialisation of linear layers reaches them.

    Args:
        condition_on: what is told, in the order of the condition's columns.
        channels: of the features.
    """

    middle: Tensor
    deviation: Tensor

    def __init__(self, condition_on: Sequence[str], channels: int) -> None:
        super().__init__()
        middle, deviation = (torch.tensor([v for word in condition_on for v in _USUAL_MM[word][i]]) for i in (0, 1))
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)
        with torch.random.fork_rng(devices=()):  # the other weights start as they would without this
            self.hidden = nn.Linear(n_condition_values(condition_on), _HIDDEN)
        self.weight = nn.Parameter(torch.zeros(2 * channels, _HIDDEN))
        self.bias = nn.Parameter(torch.zeros(2 * channels))

    def forward(self, features: Tensor, condition: Tensor | None) -> Tensor:
        """The features of each sample, scaled and shifted.

        Args:
            features: tokens `[B, N, C]`, or maps `[B, C, X, Y, Z]`.
            condition: `[B, K]` raw millimetres.

        Raises:
            ValueError: without a condition: a network that was taught with one means nothing without.
        """
        if condition is None:
            raise ValueError("this network is told more than the image (model.condition_on), and nothing was given")
        told = ((condition - self.middle) / self.deviation).to(self.hidden.weight.dtype)
        changes = F.linear(F.silu(self.hidden(told)), self.weight, self.bias)
        axes = (slice(None), None) if features.ndim == 3 else (..., None, None, None)
        scale, shift = (change[axes] for change in changes.chunk(2, dim=1))
        return features * (1 + scale) + shift


def films(condition_on: Sequence[str], channels: Sequence[int]) -> nn.ModuleList:
    """A `Film` for each width of features; none where the network is told nothing."""
    return nn.ModuleList(Film(condition_on, n) for n in channels if condition_on)


def usual_condition(condition_on: Sequence[str], rows: int) -> dict[str, Tensor]:
    """A condition like many, `[rows, K]`, by name, to try a network with; nothing where it is told nothing."""
    values = [v for word in condition_on for v in _USUAL_MM[word][0]]
    return {"condition": torch.tensor(values).repeat(rows, 1)} if values else {}
