"""Quick forms of the transformer: attention by `BlockCausal`, one cache, fewer calls."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.checks import as_labels
from ..model.transformer import VAR, Attention, Block, KVCache
from .attention import BlockCausal, QuickCache, attend, normalised, rectangles, spans
from .copies import forget
from .halves import halved
from .layers import QuickLinear
from .trial import observed, works

BlockModulation = tuple[Tensor, ...]
"""What the class sets in a block: gamma_1, gamma_2, 1 + s_1, 1 + s_2, b_1, b_2, each (B, 1, w)."""


class QuickAttention(Attention):
    """Quick in training (`BlockCausal`) and with a cache; else as the plain form."""

    fixed: tuple[Tensor, Tensor | None] | None = None
    """In a copy: bias and temperature, which every call would compute again."""
    parts: list[tuple[slice, slice, bool]] | None = None
    """Rectangles of the mask in teacher forcing; set by `QuickVAR`, or whoever has the mask."""

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None, block: int = 0
    ) -> Tensor:
        """As in `Attention`."""
        if type(self.qkv) is not QuickLinear or observed(x):
            return super().forward(x, mask, cache, block)
        bias, temperature = self.fixed or self.bias_and_temperature()
        qkv = self.qkv(x, bias).unflatten(2, (3, self.heads, -1))
        if cache is not None:
            qkv = qkv.permute(2, 0, 3, 1, 4)
            q, k = normalised(qkv[:2], temperature)  # each (B, heads, l, d)
            k, v = cache.append(block, k.to(qkv.dtype), qkv[2])
            return self.proj(attend(q.to(v.dtype), k, v).transpose(1, 2).flatten(2))
        length, parts = x.shape[1], [(slice(None), slice(None), mask)]
        if mask is not None and self.parts and self.parts[-1][1].stop == length:
            parts = spans(self.parts, mask)
        if qkv.device.type == "cpu" and works("attention", qkv.dtype):
            return self.proj(BlockCausal.apply(qkv, temperature, parts))
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k = normalised(qkv[:2], temperature).to(qkv.dtype)  # each (B, heads, L, d)
        mixed = [
            F.scaled_dot_product_attention(
                q[:, :, at], k[:, :, keys], qkv[2][:, :, keys], attn_mask=seen, scale=1.0
            )
            for at, keys, seen in parts
        ]
        return self.proj(torch.cat(mixed, dim=2).transpose(1, 2).flatten(2))

    def bias_and_temperature(self) -> tuple[Tensor, Tensor | None]:
        """Bias of queries, keys and values (3 width,), and s_h (heads, 1, 1) if normalised."""
        return self.bias(), self.temperature() if self.qk_norm else None

    def lay_out(self, device: str, dtype: torch.dtype) -> None:
        """Keeps bias and temperature in `dtype`."""
        self.fixed = tuple(t if t is None else t.to(dtype) for t in self.bias_and_temperature())


class QuickBlock(Block):
    """Fewer passes over memory: gain and shift in one call, GELU with the layer before it."""

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | BlockModulation,
        mask: Tensor | None,
        cache: KVCache | None = None,
        block: int = 0,
    ) -> Tensor:
        """As in `Block`; the modulation may come split by `split_modulations`."""
        if isinstance(modulation, Tensor):
            (modulation,) = split_modulations(modulation[None], x.dtype)
        gamma1, gamma2, gain1, gain2, shift1, shift2 = modulation
        x = gated(x, gamma1, self.attention(norm(x, gain1, shift1), mask, cache, block))
        h = norm(x, gain2, shift2)
        if type(self.fc1) is QuickLinear:
            h = self.fc1(h, gelu=True)
        else:
            h = F.gelu(self.fc1(h), approximate="tanh")
        return gated(x, gamma2, self.fc2(h))


def split_modulations(modulations: Tensor, stream: torch.dtype) -> list[BlockModulation]:
    """(depth, B, 6, w) from `VAR.condition` -> each block's six, once for all scales of a draw.

    Args:
        stream: type of the x that blocks add to; without gradients gates are of it, too (`gated`).
    """
    gates, scales, shifts = modulations.unsqueeze(3).split(2, dim=2)
    if not torch.is_grad_enabled():
        gates = gates.to(stream)
    return list(zip(*(t for two in (gates, 1 + scales, shifts) for t in two.unbind(2))))


def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """LN(x) gain + shift, in the type of the modulation: under autocast that of a branch."""
    x = F.layer_norm(x.to(gain.dtype), x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, x, gain)


def gated(x: Tensor, gamma: Tensor, branch: Tensor) -> Tensor:
    """x + gamma branch, in the type of x."""
    # One pass over memory instead of two; with its gradient it would be slower.
    return x + gamma * branch if torch.is_grad_enabled() else torch.addcmul(x, gamma, branch)


class QuickVAR(VAR):
    """Knows the spans of its mask, and keeps one cache a draw."""

    in_halves = False  # see `quicken`

    def quickened(self) -> None:
        """Tells the blocks' attention who sees whom; `quicken` calls it."""
        parts = rectangles(self.schedule)
        for block in self.blocks:
            if isinstance(block.attention, QuickAttention):
                block.attention.parts = parts

    def forward(
        self, labels: Tensor, teacher_inputs: Tensor, draws: Tensor | None = None
    ) -> Tensor:
        """As in `VAR`."""
        if not self.in_halves:
            return super().forward(labels, teacher_inputs, draws)
        labels = as_labels(labels, self.config.num_classes).to(self.head.weight.device)
        if draws is None and self.training:  # here, so that two threads do not race for them
            draws = torch.rand(len(labels), 1 + 2 * self.config.depth, device=labels.device)
        inputs = [labels, teacher_inputs, *([] if draws is None else [draws])]
        return halved(super().forward, [p for p in self.parameters() if p.requires_grad], *inputs)

    def new_cache(self, batch: int) -> KVCache:
        """As in `VAR`."""
        return QuickCache(self)

    def hidden(
        self, k: int, x: Tensor, modulations: Tensor, head: Tensor, cache: KVCache
    ) -> Tensor:
        """As in `VAR`."""
        if isinstance(cache, QuickCache):
            cache.part = self.schedule.slices[k]
            if cache.modulations is not modulations:
                cache.modulations = modulations
                cache.split = split_modulations(modulations, self.start_position.dtype)
            modulations = cache.split
        return super().hidden(k, x, modulations, head, cache)

    def before_head(self, x: Tensor, head: Tensor) -> Tensor:
        """As in `VAR`."""
        scale, shift = head.unsqueeze(2).unbind(1)
        return norm(x, 1 + scale, shift)

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; training drops the copy made for drawing."""
        if mode:
            forget(self)
        return super().train(mode)
