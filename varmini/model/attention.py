"""Attention between token maps: the formula, and the same written out for a quick training step.

What each quick form gains is measured by `varmini bench` and stands in results/bench/forms.csv.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .scales import ScaleSchedule

if TYPE_CHECKING:
    from .transformer import VAR

Span = tuple[slice, int, Tensor | None]
"""Queries, number of keys that any of them sees, and who sees whom (None: all see all)."""


def spans(schedule: ScaleSchedule, mask: Tensor, large: int = 128) -> list[Span]:
    """Cuts the block-causal mask into rectangles: all small scales together, each large one alone.

    A scale sees exactly what stands before its end, so alone it needs no mask, and what it may not
    see is not computed. Cutting small scales as well costs more in calls than it saves.

    Args:
        mask: (L, L) bool of the schedule.
        large: tokens from which on a scale stands alone.
    """
    counts = schedule.tokens_per_scale
    first = next((k for k, n in enumerate(counts) if k and n >= large), len(counts))
    stop = schedule.slices[first - 1].stop
    inside = None if first == 1 else mask[:stop, :stop]
    return [(slice(0, stop), stop, inside)] + [(s, s.stop, None) for s in schedule.slices[first:]]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T) v: q (B, heads, L_q, d), k and v (B, heads, L_k, d) -> like q.

    Args:
        mask: (L_q, L_k) bool, True where a query may look; None for everywhere.
    """
    quick = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    if quick and k.shape[2] >= 32:
        # In bf16 on a CPU, plain products are quicker than the fused kernel (forms.csv), but for
        # the first maps of few images, where the number of calls counts (32: tried, not in that
        # table). The bound ignores the batch, so that a batch and its parts draw the same tokens.
        scores = q @ k.mT
        if mask is not None:
            scores.masked_fill_(~mask, -math.inf)
        return torch.softmax(scores, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def block_causal(qkv: Tensor, temperature: Tensor | None, parts: list[Span]) -> Tensor:
    """Attention of all scales at once, each seeing itself and all before it.

    Args:
        qkv: (B, L, 3, heads, d): queries, keys, values.
        temperature: (heads, 1, 1): queries and keys get unit length, then queries this factor;
            None: the official scale without normalisation, 1/4 d^-1/2.
        parts: from `spans`.

    Returns:
        (B, L, heads d).
    """
    if qkv.device.type == "cpu" and not torch.compiler.is_compiling():
        # By hand: the fused kernel's bf16 backward is slow on a CPU (forms.csv).
        return _BlockCausal.apply(qkv, temperature, parts)
    qkv = qkv.permute(2, 0, 3, 1, 4)
    q, k = normalised(qkv[:2], temperature)  # each (B, heads, L, d)
    v = qkv[2].to(q.dtype)
    mixed = [attend(q[:, :, at], k[:, :, :stop], v[:, :, :stop], m) for at, stop, m in parts]
    return torch.cat(mixed, dim=2).transpose(1, 2).flatten(2)


def normalised(qk: Tensor, temperature: Tensor | None) -> Tensor:
    """Queries and keys (2, B, heads, L, d) as attention multiplies them: s q/|q| and k/|k|.

    Args:
        temperature: s (heads, 1, 1); None: 1/4 d^-1/2 q and k as it is.
    """
    if temperature is None:
        return torch.stack([qk[0] * (0.25 / math.sqrt(qk.shape[-1])), qk[1]])
    # F.normalize of both with half of its calls: they are what a small map costs.
    norms = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp(min=1e-12)
    norms[0].div_(temperature)  # `/=` would copy the result onto itself
    return qk / norms


class _BlockCausal(torch.autograd.Function):
    """`block_causal` with its backward written out, one pass over memory a line."""

    @staticmethod
    def forward(ctx, qkv: Tensor, temperature: Tensor | None, parts: list[Span]) -> Tensor:
        batch, length, _, heads, d = qkv.shape
        x = qkv.permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format)
        x = x.view(3, batch * heads, length, d)
        q, k, v = x
        norms = scale = None
        with torch.autocast(qkv.device.type, enabled=False):
            if temperature is None:
                q *= 0.25 / math.sqrt(d)
            else:
                exact = torch.promote_types(x.dtype, torch.float32)
                scale = temperature.to(exact).repeat(batch, 1, 1)
                norms = torch.linalg.vector_norm(x[:2], dim=-1, keepdim=True, dtype=exact)
                norms.clamp_(min=1e-12)[0] /= scale
                norms = norms.to(x.dtype)
                x[:2] /= norms  # q = s q/|q|, k = k/|k|
            out, shares = torch.empty_like(q), []
            for at, stop, mask in parts:
                scores = q[:, at] @ k[:, :stop].mT
                if mask is not None:
                    scores.masked_fill_(~mask, -math.inf)
                shares.append(torch.softmax(scores, dim=-1))
                torch.bmm(shares[-1], v[:, :stop], out=out[:, at])
        ctx.parts, ctx.heads = parts, heads
        ctx.save_for_backward(x, norms, scale, *shares)
        return out.view(batch, heads, length, d).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, norms, scale, *shares = ctx.saved_tensors
        q, k, v = x
        rows, length, d = q.shape
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.unflatten(2, (ctx.heads, d)).transpose(1, 2).reshape(rows, length, d)
            gx, grad_scale = torch.zeros_like(x), None
            gq, gk, gv = gx
            for (at, stop, _), p in zip(ctx.parts, shares):
                # dS = P (dP - rowsum(dP P)) with dP = dO V^T
                ds = torch._softmax_backward_data(grad[:, at] @ v[:, :stop].mT, p, -1, p.dtype)
                gv[:, :stop] += p.mT @ grad[:, at]
                gk[:, :stop] += ds.mT @ q[:, at]
                gq[:, at] = ds @ k[:, :stop]
            if norms is None:
                gq *= 0.25 / math.sqrt(d)
            else:
                # y = s x/|x|:  dx = s/|x| (dy - y <y, dy> / s^2),  ds = <y, dy> / s
                along = (gx[:2] * x[:2]).sum(-1, keepdim=True, dtype=scale.dtype)
                along[0] /= scale
                grad_scale = along[0].view(-1, ctx.heads, length).sum((0, 2)).view(-1, 1, 1)
                along[0] /= scale
                gx[:2].addcmul_(x[:2], along.to(x.dtype), value=-1).div_(norms)
            grad_qkv = x.new_empty(rows // ctx.heads, length, 3, ctx.heads, d)
            grad_qkv.permute(2, 0, 3, 1, 4).copy_(gx.view(3, -1, ctx.heads, length, d))
        return grad_qkv, grad_scale, None


class KVCache:
    """Keys and values of the scales drawn so far, allocated once for all L tokens.

    Args:
        batch: images drawn together, both guidance halves counted.
    """

    def __init__(self, var: VAR, batch: int, dtype: torch.dtype = torch.float32) -> None:
        c = var.config
        shape = (c.depth, batch, c.heads, var.schedule.num_tokens, c.width // c.heads)
        self.keys = torch.empty(shape, dtype=dtype, device=var.head.weight.device)
        self.values = torch.empty_like(self.keys)

    def append(self, block: int, part: slice, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, heads, l, d) of one scale; returns those of all scales up to it."""
        keys, values = self.keys[block, :, :, : part.stop], self.values[block, :, :, : part.stop]
        keys[:, :, part.start :] = k
        values[:, :, part.start :] = v
        return keys, values
