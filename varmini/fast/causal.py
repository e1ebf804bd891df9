"""Quick causal attention for training: blocks of queries that meet only the keys they see.

A form for the zoo's transformers, which this part of the house does not know: a module that has a
`causal` gets it from `quicken`. On a CPU the fused kernel's backward is slow, and products in place
are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .trial import observed, trial, works

BLOCK = 64
"""Queries that are multiplied together; half a block of hidden keys is computed on average."""
LONG = 128
"""Positions from which on the blocks gain."""


def hang_on(part: nn.Module) -> None:
    """Gives `part` the quick form of its `causal`: (B, l, 3 w), heads -> (B, l, w)."""
    if hasattr(type(part), "causal"):
        part.causal = functools.partial(causal, type(part).causal)


def causal(plain: Callable[[Tensor, int], Tensor], qkv: Tensor, heads: int) -> Tensor:
    """plain(qkv, heads), by blocks where that is quicker: on a CPU, in float32, to train."""
    quick = (
        qkv.requires_grad and qkv.device.type == "cpu" and qkv.dtype is torch.float32
        and qkv.shape[1] >= LONG and not observed(qkv) and works("causal", qkv.dtype)
    )  # fmt: skip
    return CausalBlocks.apply(qkv, heads) if quick else plain(qkv, heads)


class CausalBlocks(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v of each position over itself and those before it.

    `apply(qkv, heads)`: (B, l, 3 w) with w = heads d -> (B, l, w). Written out as `BlockCausal` is.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, heads: int) -> Tensor:
        b, length, width = qkv.shape
        x = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        x = x.clone(memory_format=torch.contiguous_format).flatten(1, 2)  # (3, B heads, l, d)
        q, k, v = x
        out, shares = torch.empty_like(q), []
        hidden = torch.full((BLOCK, BLOCK), -math.inf).triu(1)
        for at, seen in blocks(length):
            p = q.new_empty(len(q), at.stop - at.start, at.stop)
            torch.baddbmm(p, q[:, at], k[:, seen].mT, beta=0, alpha=q.shape[2] ** -0.5, out=p)
            p[:, :, at] += hidden[: p.shape[1], : p.shape[1]]
            torch.bmm(torch.softmax(p, -1, out=p), v[:, seen], out=out[:, at])
            shares.append(p)
        ctx.heads = heads
        ctx.save_for_backward(x, *shares)
        return out.unflatten(0, (b, heads)).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, *shares = ctx.saved_tensors
        (q, k, v), gx, scale = x, torch.zeros_like(x), x.shape[3] ** -0.5
        gq, gk, gv = gx
        grad = grad.unflatten(2, (ctx.heads, -1)).transpose(1, 2).flatten(0, 1)  # like q
        for (at, seen), p in zip(blocks(q.shape[1]), shares):
            # dS = P (dP - rowsum(dP P)) with dP = dO V^T
            ds = grad[:, at] @ v[:, seen].mT
            torch._softmax_backward_data(ds, p, -1, p.dtype, grad_input=ds)
            gv[:, seen].baddbmm_(p.mT, grad[:, at])
            gk[:, seen].baddbmm_(ds.mT, q[:, at], alpha=scale)
            gq[:, at].baddbmm_(ds, k[:, seen], beta=0, alpha=scale)
        gx = gx.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4)
        return gx.flatten(2), None


def blocks(length: int) -> list[tuple[slice, slice]]:
    """Queries, and the keys that the last of them sees."""
    stops = [min(start + BLOCK, length) for start in range(0, length, BLOCK)]
    return [(slice(i * BLOCK, stop), slice(0, stop)) for i, stop in enumerate(stops)]


@trial("causal")
def _try_causal(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(2, BLOCK + 5, 3 * 16).to(dtype)
    q, k, v = qkv.float().unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    seen = torch.ones(len(qkv[0]), len(qkv[0]), dtype=torch.bool).tril()
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(~seen, -math.inf)
    plain = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return CausalBlocks.apply(qkv, 2), plain
