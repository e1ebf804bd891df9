"""The zoo's causal block in its quick form, for training on long sequences (iGPT's 256 pixels).

Forward and backward are written out: what causality hides is not computed, the bias goes through
memory with the product, and the gradient of GELU into the memory of what it reads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...fast.quicken import QUICK
from ...fast.trial import observed, trial, works
from ...zoo.generators.causal import Block

LONG = 128
"""Positions from which on it is quicker than the fused kernel."""
SPAN = 64
"""Queries that are multiplied at once with all keys up to the last of them."""


class QuickBlock(Block):
    """Quick in float32 training on a CPU; else as the plain form."""

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """As in `Block`."""
        trains = torch.is_grad_enabled() and kept is None and x.shape[1] >= LONG
        exact = x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
        here = x.device.type == "cpu" and not observed(x) and works("causal", x.dtype)
        if not (trains and exact and here):
            return super().forward(x, kept)
        inner = [self.qkv.weight, self.qkv.bias, self.proj.weight, self.proj.bias]
        x = x + Attention.apply(self.norm1(x), self.heads, *inner)
        outer = [self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias]
        return x + FeedForward.apply(self.norm2(x), *outer)


QUICK[Block] = QuickBlock


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, inputs) -> x W^T + b (n, outputs), in one pass over memory."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class Attention(torch.autograd.Function):
    """W_o softmax(q k^T / sqrt(d)) v + b_o, causal: `apply(x, heads, W, b, W_o, b_o)`.

    x (B, L, w) -> (B, L, w); W and b make q, k and v at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, *weights: Tensor) -> Tensor:
        batch, length, w = x.shape
        rows, d = x.reshape(-1, w), w // heads
        qkv = product(rows, *weights[:2]).view(batch, length, 3, heads, d).permute(2, 0, 3, 1, 4)
        qkv = qkv.clone(memory_format=torch.contiguous_format).view(3, batch * heads, length, d)
        q, k, v = qkv
        q *= 1 / math.sqrt(d)
        parts, shares = [], []
        for at in spans(length):
            scores = q[:, at] @ k[:, : at.stop].mT
            scores[:, :, at] += hidden(at.stop - at.start)
            shares.append(torch.softmax(scores, dim=-1, out=scores))
            parts.append(shares[-1] @ v[:, : at.stop])
        mixed = torch.cat(parts, dim=1).view(batch, heads, length, d).transpose(1, 2).reshape(-1, w)
        ctx.save_for_backward(rows, qkv, mixed, *weights, *shares)
        return product(mixed, *weights[2:]).view(batch, length, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, qkv, mixed, inner, _, outer, _, *shares = ctx.saved_tensors
        batch, length, w = gradient.shape
        (q, k, v), (n, _, d) = qkv, qkv.shape[1:]
        of_outer = gradients(gradient.reshape(-1, w), mixed)
        g = (gradient.reshape(-1, w) @ outer).view(batch, length, -1, d)
        g = g.transpose(1, 2).reshape(n, length, d)
        (gq, gk, gv), parts = (gx := torch.empty_like(qkv)), []
        for at, p in zip(reversed(spans(length)), reversed(shares)):  # the last sees all keys
            # dS = P (dP - rowsum(dP P)) with dP = dO V^T
            ds = g[:, at] @ v[:, : at.stop].mT
            torch._softmax_backward_data(ds, p, -1, p.dtype, grad_input=ds)
            if at.stop == length:
                torch.bmm(ds.mT, q[:, at], out=gk), torch.bmm(p.mT, g[:, at], out=gv)
            else:
                gk[:, : at.stop] += ds.mT @ q[:, at]
                gv[:, : at.stop] += p.mT @ g[:, at]
            parts.append(ds @ k[:, : at.stop])
        torch.cat(parts[::-1], dim=1, out=gq).mul_(1 / math.sqrt(d))
        gx = gx.view(3, batch, -1, length, d).permute(1, 3, 0, 2, 4).reshape(-1, 3 * w)
        return (gx @ inner).view(gradient.shape), None, *gradients(gx, rows), *of_outer


class FeedForward(torch.autograd.Function):
    """W_2 GELU(W_1 x + b_1) + b_2: `apply(x, W_1, b_1, W_2, b_2)`, x (B, L, w) -> (B, L, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[2])
        before = product(rows, *weights[:2])
        after = F.gelu(before)
        ctx.save_for_backward(rows, before, after, *weights)
        return product(after, *weights[2:]).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        rows, before, after, first, _, second, _ = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[2])
        inside = g @ second
        torch.ops.aten.gelu_backward.grad_input(inside, before, grad_input=inside)
        of_inputs = (inside @ first).view(gradient.shape)
        return of_inputs, *gradients(inside, rows), *gradients(g, after)


def gradients(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a layer's weight and bias: g (n, outputs) of its result, x (n, inputs)."""
    wide = g.shape[1] > x.shape[1]  # MKL is quicker with the narrow one first
    return (x.T @ g).T if wide else g.T @ x, g.sum(0)


def spans(length: int) -> list[slice]:
    """Of queries."""
    return [slice(i, min(i + SPAN, length)) for i in range(0, length, SPAN)]


@functools.cache
def hidden(n: int) -> Tensor:
    """-inf where one of n queries would see a later key of their span, else 0: (n, n)."""
    return torch.full((n, n), -math.inf).triu(1)


@trial("causal")
def _try_causal(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    block = Block(16, 2).to(dtype)
    x, names = torch.randn(2, SPAN + 5, 16).to(dtype), ("qkv", "proj", "fc1", "fc2")
    w = [p for name in names for p in getattr(block, name).parameters()]
    y = x + Attention.apply(block.norm1(x), 2, *w[:4])
    return y + FeedForward.apply(block.norm2(y), *w[4:]), block(x)
