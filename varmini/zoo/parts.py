"""What several systems share: plain attention, label dropout and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over all positions, with biases, as in BERT, ViT and DiT.

    VAR's own attention differs: unit-length queries and keys, and no bias on the keys.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, d)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def drop_labels(labels: Tensor, chance: float, null: int) -> Tensor:
    """Labels (B,) of a training step, some replaced by the null class: guidance subtracts it."""
    dropped = torch.rand(len(labels), device=labels.device) < chance
    return labels.masked_fill(dropped, null)


def with_null(labels: Tensor, null: int, scale: float) -> Tensor:
    """Labels (B,), and below them the null class as often where s = `scale` asks for guidance."""
    return labels if scale == 1 else torch.cat([labels, torch.full_like(labels, null)])


def both(x: Tensor, scale: float) -> Tensor:
    """x (B, ...) once, or twice under guidance: what was drawn enters both halves."""
    return x if scale == 1 else torch.cat([x, x])


def combine(x: Tensor, scale: float) -> Tensor:
    """u + s (c - u) of the two halves of x: (2 B, ...) -> (B, ...); x itself for s = 1."""
    if scale == 1:
        return x
    conditional, unconditional = x.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def guided(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, labels: Tensor, null: int, scale: float
) -> Tensor:
    """Standard classifier-free guidance, u + s (c - u), with both halves in one call.

    Ho and Salimans 2022. VAR's own convention (1 + t) c - t u is the same with s = 1 + t.

    Args:
        network: (x (n, ...), labels (n,)) -> (n, ...); called with n = B, or 2 B under guidance.
        null: label of the null class, which u is conditioned on.
        scale: s; 1 is no guidance.
    """
    return combine(network(both(x, scale), with_null(labels, null, scale)), scale)
