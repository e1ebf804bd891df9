"""Quick attention over token maps: what the mask hides is not computed, backward is written out.

What each form gains is measured by `varmini bench`: results/bench/forms.csv.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..model.scales import ScaleSchedule
from ..model.transformer import VAR, KVCache
from .trial import trial

Span = tuple[slice, slice, Tensor | None]
"""Queries, the keys that any of them sees, and who sees whom (None: all see all)."""


def rectangles(schedule: ScaleSchedule, large: int = 32) -> list[tuple[slice, slice, bool]]:
    """Cuts the block-causal mask into rectangles: all small scales together, each large one alone.

    A scale sees exactly what stands before its end, so alone it needs no mask, and what it may not
    see is not computed. Cutting small scales as well costs more in calls than it saves.

    Args:
        large: tokens from which on a scale stands alone.

    Returns:
        Queries, the keys that any of them sees, and whether a mask is needed.
    """
    counts = schedule.tokens_per_scale
    first = next((k for k, n in enumerate(counts) if k and n >= large), len(counts))
    stop = schedule.slices[first - 1].stop
    alone = [(part, slice(part.stop), False) for part in schedule.slices[first:]]
    return [(slice(0, stop), slice(stop), first > 1), *alone]


def spans(parts: list[tuple[slice, slice, bool]], mask: Tensor) -> list[Span]:
    """`rectangles` with their piece of the mask (L, L) where they need it."""
    return [(at, keys, mask[at, keys] if masked else None) for at, keys, masked in parts]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v without gradients: q (B, heads, l, d), k, v (B, heads, n, d) -> like q."""
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and k.shape[2] >= 32:
        # In bf16 on a CPU, plain products are quicker than the fused kernel, but for the first
        # scales of few images, where the number of calls counts. The bound ignores the batch, so
        # that a batch and its parts draw the same tokens.
        return torch.softmax(q @ k.mT, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def normalised(qk: Tensor, temperature: Tensor | None) -> Tensor:
    """Queries and keys (2, B, heads, l, d) as attention multiplies them: s q/|q| and k/|k|.

    Args:
        temperature: s (heads, 1, 1); None: 1/4 d^-1/2 q and k as it is.
    """
    if temperature is None:
        return torch.stack([qk[0] * (0.25 / math.sqrt(qk.shape[-1])), qk[1]])
    # F.normalize of both with half of its calls: they are what a small map costs.
    norms = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).clamp(min=1e-12)
    norms[0].div_(temperature)  # `/=` would copy the result onto itself
    return qk / norms


class BlockCausal(torch.autograd.Function):
    """Attention of all scales at once, each seeing itself and all before it.

    `apply(qkv, temperature, parts)` takes queries, keys and values (B, L, 3, heads, d), s
    (heads, 1, 1) or None as in `normalised`, and `spans`; it returns (B, L, heads d). Forward and
    backward are written out, one pass over memory a line: on a CPU the fused kernel's backward is
    slow, and it computes what the mask hides.
    """

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
            for at, keys, mask in parts:
                scores = q[:, at] @ k[:, keys].mT
                if mask is not None:
                    scores.masked_fill_(~mask, -math.inf)
                shares.append(torch.softmax(scores, dim=-1))
                torch.bmm(shares[-1], v[:, keys], out=out[:, at])
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
            for (at, keys, _), p in zip(ctx.parts, shares):
                # dS = P (dP - rowsum(dP P)) with dP = dO V^T
                ds = torch._softmax_backward_data(grad[:, at] @ v[:, keys].mT, p, -1, p.dtype)
                gv[:, keys] += p.mT @ grad[:, at]
                gk[:, keys] += ds.mT @ q[:, at]
                gq[:, at] = ds @ k[:, keys]
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


class QuickCache(KVCache):
    """Keys and values in memory that is allocated once for all L tokens."""

    def __init__(self, var: VAR) -> None:
        super().__init__()
        self.part, self.total = slice(0), var.schedule.num_tokens
        self.modulations: Tensor | None = None
        self.split: list[tuple[Tensor, ...]] = []

    def append(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As in `KVCache`, at `part`, the tokens of the scale that is drawn now."""
        if block not in self.keys:
            shape = (len(k), k.shape[1], self.total, k.shape[3])
            self.keys[block], self.values[block] = k.new_empty(shape), v.new_empty(shape)
        keys, values = (t[block][:, :, : self.part.stop] for t in (self.keys, self.values))
        keys[:, :, self.part.start :], values[:, :, self.part.start :] = k, v
        return keys, values


@trial("attention")
def _try_attention(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    schedule = ScaleSchedule((1, 2))
    qkv, mask = torch.randn(2, 5, 3, 2, 8).to(dtype), schedule.mask()
    quick = BlockCausal.apply(qkv, torch.full((2, 1, 1), 2.0), spans(rectangles(schedule, 4), mask))
    q, k, v = qkv.float().permute(2, 0, 3, 1, 4)
    q, k = 2 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    return quick, plain.transpose(1, 2).flatten(2)
