"""The models that are measured, with random weights, which cost the same as trained ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...model.scales import Size
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...model.transformer import VAR, VARConfig
from ...runtime.machine import device

PAPER = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer and its tokenizer."""

    depth: int  # blocks; the width is 64 times as much
    sizes: tuple[Size, ...]  # sizes of the token maps
    vocab_size: int  # codes
    decoder: int  # channels of the tokenizer's first level; the paper's has 160
    train: int  # images in a training step
    batches: tuple[int, ...]  # images drawn, encoded and decoded together, by default


SHAPES = {
    "tiny": Shape(2, (1, 2, 3, 4), 64, 32, 2, (1, 2)),
    "small": Shape(6, (1, 2, 3, 4, 6, 8), 1024, 64, 32, (1, 16, 64)),
    "medium": Shape(8, PAPER, 4096, 64, 4, (1, 16)),
    "d16": Shape(16, PAPER, 4096, 160, 2, (1, 64)),
}
"""Shapes by name: "small" has 130 tokens, "medium" 680; "d16" is the paper's smallest model."""


def models(shape: Shape) -> tuple[VAR, MultiScaleVQVAE]:
    """Both models of a shape, in evaluation mode on the device."""
    torch.manual_seed(0)
    common = {"sizes": shape.sizes, "vocab_size": shape.vocab_size}
    var = VAR(VARConfig(shape.depth, 64 * shape.depth, shape.depth, **common))
    tok = MultiScaleVQVAE(TokenizerConfig(**common, width=shape.decoder))
    return var.eval().to(device()), tok.eval().to(device())
