"""The transformer's block: attention and feed-forward layer, both modulated by the class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fast.layers import Linear
from .attention import KVCache, Span, attend, block_causal, normalised

if TYPE_CHECKING:
    from .transformer import VARConfig

BlockModulation = tuple[Tensor, ...]
"""What the class sets in a block: gamma_1, gamma_2, 1 + s_1, 1 + s_2, b_1, b_2, each (B, 1, w)."""


class Attention(nn.Module):
    """Self-attention whose queries and keys have unit length (section 3.2, "q/k normalisation").

    attn = softmax(s_h <q/|q|, k/|k|>) v with s_h = exp(min(sigma_h, ln 100)) learned a head.
    Queries and values have a bias, keys have none.
    """

    LARGEST = math.log(100)

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.fixed: tuple[Tensor, Tensor | None] | None = None
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = Linear(width, width)
        if qk_norm:
            self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(4)))

    def forward(
        self,
        x: Tensor,
        parts: list[Span] | None = None,
        cache: KVCache | None = None,
        block: int = 0,
        part: slice = slice(None),
    ) -> Tensor:
        """(B, l, width) -> (B, l, width).

        Args:
            parts: who sees whom, from `attention.spans`; None for everyone everyone.
            cache, block, part: with a cache, x is scale `part` and sees all before.
        """
        bias, temperature = self.fixed or self.bias_and_temperature()
        qkv = self.qkv(x, bias).view(*x.shape[:2], 3, self.heads, x.shape[2] // self.heads)
        if cache is None:
            everyone = [(slice(0, x.shape[1]), x.shape[1], None)]
            return self.proj(block_causal(qkv, temperature, parts or everyone))
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k = normalised(qkv[:2], temperature)  # each (B, heads, l, d)
        k, v = cache.append(block, part, k, qkv[2])
        return self.proj(attend(q, k.to(q.dtype), v.to(q.dtype)).transpose(1, 2).flatten(2))

    def bias_and_temperature(self) -> tuple[Tensor, Tensor | None]:
        """Bias of queries, keys and values (3 width,), and s_h (heads, 1, 1) if q/k normalised."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return bias, self.log_scale.clamp(max=self.LARGEST).exp() if self.qk_norm else None

    def lay_out(self, device: str) -> None:
        """Keeps what every call would compute again, in a copy that `precision.ready` makes."""
        self.fixed = tuple(t if t is None else t.bfloat16() for t in self.bias_and_temperature())


class Block(nn.Module):
    """A transformer block modulated by the class (AdaLN, as in DiT).

    x <- x + gamma_1 Attn(LN(x) (1 + s_1) + b_1)
    x <- x + gamma_2 FFN(LN(x) (1 + s_2) + b_2)
    """

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.attention = Attention(config.width, config.heads, config.qk_norm)
        self.fc1 = Linear(config.width, hidden)
        self.fc2 = Linear(hidden, config.width)

    def forward(
        self, x: Tensor, modulation: BlockModulation, parts: list[Span] | None = None, *cached
    ) -> Tensor:
        """x (B, l, w) and the block's six from `split_modulations` -> (B, l, w).

        The rest as in `Attention.forward`.
        """
        gamma1, gamma2, gain1, gain2, shift1, shift2 = modulation
        h = norm(x, gain1, shift1)
        x = gated(x, gamma1, self.attention(h, parts, *cached))
        h = norm(x, gain2, shift2)
        return gated(x, gamma2, self.fc2(self.fc1(h, gelu=True)))


def split_modulations(modulations: Tensor, stream: torch.dtype) -> list[BlockModulation]:
    """(depth, B, 6, w) from `VAR.condition` -> each block's six, once for all scales of a draw.

    Args:
        stream: type of the x that blocks add to; without gradients gates are of it, too (`gated`).
    """
    gates, scales, shifts = modulations.unsqueeze(3).split(2, dim=2)
    if not torch.is_grad_enabled():
        gates = gates.to(stream)
    return list(zip(*(t for two in (gates, 1 + scales, shifts) for t in two.unbind(2))))


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, with a layer norm that has no weights of its own."""
    return norm(x, 1 + scale, shift)


def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """LN(x) gain + shift.

    In the type of the modulation: under autocast a branch is bf16 from here on, while x, to which
    the branches are added, stays float32.
    """
    x = F.layer_norm(x.to(gain.dtype), x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, x, gain)


def gated(x: Tensor, gamma: Tensor, branch: Tensor) -> Tensor:
    """x + gamma branch, in the type of x."""
    if torch.is_grad_enabled() or branch.dtype == x.dtype:
        return x + gamma * branch
    # A bf16 branch in one call instead of two (forms.csv); with its gradient it would be slower.
    return torch.addcmul(x, gamma, branch)
