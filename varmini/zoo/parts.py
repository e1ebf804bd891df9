"""What several systems share: plain attention, checks at the door, label dropout and guidance."""

from __future__ import annotations

import numbers

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


def check_shape(config: object, names: tuple[str, ...]) -> None:
    """Raises a ValueError unless all `names` of a config are at least 1 and heads divide width."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected at least 1")
    if config.width % config.heads:
        raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
    if not 0 <= config.label_dropout <= 1:
        raise ValueError(f"label_dropout is {config.label_dropout}, expected a chance in [0, 1]")


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Returns `labels`, or raises a ValueError unless they are a LongTensor (B,) of known classes.

    The label `num_classes` is the null class.
    """
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.long:
        raise ValueError(
            f"labels are {getattr(labels, 'dtype', type(labels).__name__)} of shape "
            f"{tuple(getattr(labels, 'shape', ()))}, expected a LongTensor (B,)"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= num_classes:
        raise ValueError(
            f"labels span {int(labels.min())} to {int(labels.max())}, expected 0 to "
            f"{num_classes - 1}, or {num_classes} for the null class"
        )
    return labels


def check_grid(tokens: Tensor, side: int, vocab_size: int) -> Tensor:
    """A token map (B, side, side) as (B, side^2), or a ValueError that says what does not fit."""
    if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (side, side) or tokens.dtype != torch.long:
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, expected a LongTensor "
            f"(B, {side}, {side})"
        )
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise ValueError(
            f"tokens span {int(tokens.min())} to {int(tokens.max())}, expected [0, {vocab_size})"
        )
    return tokens.flatten(1)


def shown_labels(model: nn.Module, labels: Tensor) -> Tensor:
    """Checked labels for a training step: in training mode some become the null class, so that
    guidance has something to subtract. `model.config` has num_classes and label_dropout."""
    c = model.config
    labels = check_labels(labels, c.num_classes)
    return drop_labels(labels, c.label_dropout, c.num_classes) if model.training else labels


def drop_labels(labels: Tensor, chance: float, null: int) -> Tensor:
    """Shows the null class instead of some labels."""
    dropped = torch.rand(len(labels), device=labels.device) < chance
    return labels.masked_fill(dropped, null)


def guidance_labels(labels: Tensor, num_classes: int, scale: float) -> Tensor:
    """Checked labels (B,) and, with guidance, as many null labels after them: (B,) or (2 B,)."""
    if not isinstance(scale, numbers.Real) or not 1 <= scale < float("inf"):
        raise ValueError(f"guidance is {scale}, expected 1 (none) or more")
    labels = check_labels(labels, num_classes)
    return labels if scale == 1 else torch.cat([labels, torch.full_like(labels, num_classes)])


def guided(output: Tensor, scale: float) -> Tensor:
    """Standard classifier-free guidance, u + s (c - u), on the halves of `guidance_labels`.

    VAR's own convention (1 + t) c - t u is the same with s = 1 + t. Ho and Salimans 2022.
    """
    if scale == 1:
        return output
    conditional, unconditional = output.chunk(2)
    return unconditional + scale * (conditional - unconditional)
