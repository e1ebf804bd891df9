"""A GPT without its words: the transformer of iGPT, RQ-Transformer and FractalAR, and the inner one
of factorised AR.

Source: Radford et al. 2019, GPT-2: layer norm before each branch, GELU, learned positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cache = list[list[Tensor]]
"""Of each block: nothing, or the keys and values (B, heads, l, d) so far."""


class Block(nn.Module):
    """x <- x + Attn(LN(x));  x <- x + FFN(LN(x)); a position sees itself and those before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """(B, l, w) -> (B, l, w). With `kept`, keys and values of x are added to those in it."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if kept is not None:
            kept[:] = [torch.cat(pair, dim=2) for pair in zip(kept, (k, v))] if kept else (k, v)
            k, v = kept
        new, seen = q.shape[2], k.shape[2]
        mask = None  # without a cache, a flag is quicker than a mask
        if new < seen:
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class CausalTransformer(nn.Module):
    """Positions, blocks and a last layer norm.

    Args:
        length: of the longest sequence.
        depth, width, heads: blocks, channels, attention heads.
    """

    def __init__(self, length: int, depth: int, width: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def new_cache(self) -> Cache:
        """An empty cache."""
        return [[] for _ in self.blocks]

    def forward(self, x: Tensor, cache: Cache | None = None, first: int = 0) -> Tensor:
        """(B, l, w) -> (B, l, w), where x are the positions from `first` on.

        cache: holds the positions before `first`, and after this call also those of x.
        """
        x = x + self.position[first : first + x.shape[1]]
        for block, kept in zip(self.blocks, cache or [None] * len(self.blocks)):
            x = block(x, kept)
        return self.norm(x)


def initialise(model: nn.Module) -> None:
    """GPT-2's start: weights, embeddings and positions N(0, 0.02^2), biases 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" not in name:
            nn.init.normal_(parameter, std=0.02)
