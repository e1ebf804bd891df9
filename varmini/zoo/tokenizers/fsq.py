"""FSQ: finite scalar quantization, each channel rounded to one of a few levels.

Source: Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv:2309.15505),
section 3.1 and appendix A.1.

    b_i = tanh(z_i + s_i) h_i - o_i,    q_i = b_i + sg(round(b_i) - b_i)
    token = sum_i (round(b_i) + floor(L_i / 2)) prod_{j < i} L_j

with h_i = (L_i - 1)(1 + 10^-3) / 2, o_i = 1/2 for even L_i and otherwise 0, and s_i such that z = 0
gives b = 0. The codes handed on are q_i / floor(L_i / 2), in [-1, 1]. No codebook, no loss, and
no collapse to be cured: the grid of prod L_i codes is fixed. Changed: 1 + 10^-3 in h_i, where the
authors have 1 - 10^-3, so that two levels work; atanh in s_i, where their code has tan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .quantizer import Quantizer, straight_through
from .tokenizer import GridConfig, GridTokenizer


@dataclass(frozen=True)
class FSQConfig(GridConfig):
    """Shape of an `FSQ` tokenizer."""

    levels: tuple[int, ...] = (8, 8, 8)
    """L_i, levels of each channel; their product is the vocabulary."""


class FSQuantizer(Quantizer):
    """Rounds each channel.

    Args:
        levels: L_i of each channel, at least 2.

    Raises:
        ValueError: on fewer levels.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {tuple(levels)}, expected at least one, all >= 2")
        super().__init__(math.prod(levels))
        levels = torch.tensor(levels)
        place_values = torch.cumprod(levels, 0) // levels
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("place_values", place_values, persistent=False)

    def bound(self, x: Tensor) -> Tensor:
        """Squeezes each channel so that rounding leaves L_i values: (N, C) -> (N, C)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.atanh(offset / half)
        return torch.tanh(x + shift) * half - offset

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> codes (N, C) in [-1, 1], tokens (N,), a loss of 0."""
        bounded = self.bound(x)
        level, middle = bounded.round().detach(), self.levels // 2
        tokens = ((level.long() + middle) * self.place_values).sum(1)
        return straight_through(bounded, level) / middle, tokens, x.new_zeros(())

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) -> codes (..., C) in [-1, 1]."""
        middle = self.levels // 2
        return (tokens[..., None] // self.place_values % self.levels - middle) / middle


class FSQ(GridTokenizer):
    """VAR's encoder and decoder around an `FSQuantizer`: (B, side, side) tokens an image."""

    config_class = FSQConfig
    kind = "fsq"

    def __init__(self, config: FSQConfig) -> None:
        super().__init__(config, FSQuantizer(config.levels), len(config.levels))
