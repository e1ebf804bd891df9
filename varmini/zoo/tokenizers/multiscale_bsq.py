"""Infinity's tokenizer: VAR's residual pyramid with bits in place of a codebook.

Source: Han et al. 2024, "Infinity: Scaling Bitwise AutoRegressive Modeling for High-Resolution
Image Synthesis" (arXiv:2412.04431), section 3.2, equations 2 to 5.

    R = f, f^ = 0;  for each scale k:  u = down(R, k) / |down(R, k)|,  q_k = sign(u) / sqrt(d),
    f^ += up(q_k),  R -= up(q_k);                                z_q = f + sg(f^ - f)
    L = 1/K sum_k (w/t (E[H(p(.|u_k))] - g H(E[p(.|u_k)])) + beta |f - sg(f^_k)|^2)

A token is d bits, which a generator predicts all at once, each by a binary classifier of its own:
no softmax over 2^d. Up is bilinear (trilinear over a single frame), and there is no phi. Added,
since the tokenizer's training code was not to be read: VAR's commitment loss, for without it
nothing keeps f within the reach of K vectors of length 1. Left out: the adversary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.checks import as_pyramid
from ...model.scales import ScaleSchedule
from .bsq import BSQConfig, BSQuantizer
from .quantizer import Quantized, Quantizer, straight_through
from .tokenizer import GridTokenizer


@dataclass(frozen=True)
class MultiScaleBSQConfig(BSQConfig):
    """Shape of a `MultiScaleBSQ`; L of the other fields is d here."""

    sizes: tuple[int, ...] = (1, 2, 3, 4)
    """Sides of the token maps, coarse to fine; the last is `side`."""
    beta: float = 0.25
    """Weight of the commitment loss."""


class MultiScaleBSQuantizer(Quantizer):
    """Residuals, scale by scale, each quantized by the same `BSQuantizer`.

    Args:
        schedule: sizes of the token maps.
        bits, beta: as in `MultiScaleBSQConfig`.
        options: as of `BSQuantizer`.
    """

    def __init__(
        self, schedule: ScaleSchedule, bits: int, *, beta: float = 0.25, **options: float
    ) -> None:
        super().__init__(*[2**bits] * len(schedule))
        self.schedule, self.beta = schedule, beta
        self.bsq = BSQuantizer(bits, **options)

    def down(self, f: Tensor, k: int) -> Tensor:
        """Averages (B, d, H, W) down to scale k."""
        return F.interpolate(f, size=self.schedule.grids[k], mode="area")

    def up(self, q: Tensor) -> Tensor:
        """(B, d, h_k, w_k) -> (B, d, H, W)."""
        size = self.schedule.grids[-1]
        return q if tuple(q.shape[2:]) == size else F.interpolate(q, size=size, mode="bilinear")

    def forward(self, f: Tensor) -> Quantized:
        """Features (B, d, H, W) -> f^, a list of token maps (B, h_k, w_k), loss, usage (K,)."""
        f_hat, tokens, loss, usage = torch.zeros_like(f), [], f.new_zeros(()), []
        for k in range(len(self.schedule)):
            scale = self.bsq(self.down(f - f_hat, k))
            f_hat = f_hat + self.up(scale.z_q.detach())
            loss = loss + scale.loss + self.beta * F.mse_loss(f, f_hat)
            tokens.append(scale.tokens)
            usage.append(scale.usage)
        return Quantized(straight_through(f, f_hat), tokens, loss / len(tokens), torch.cat(usage))

    def embed(self, tokens: Sequence[Tensor]) -> Tensor:
        """Token maps -> f^ (B, d, H, W)."""
        return self.cumulative(tokens)[-1]

    def cumulative(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """f^ after 1, 2, .. scales, each (B, d, H, W)."""
        parts = [self.up(self.bsq.embed(map_)) for map_ in tokens]
        return list(torch.stack(parts).cumsum(0))


class MultiScaleBSQ(GridTokenizer):
    """VAR's encoder and decoder around it; tokens are a pyramid, K LongTensors (B, h_k, w_k)."""

    config_class = MultiScaleBSQConfig
    kind = "multiscale-bsq"

    def __init__(self, config: MultiScaleBSQConfig) -> None:
        c = config
        if c.sizes[-1] != c.side:
            raise ValueError(f"sizes are {c.sizes}, expected to end at the side {c.side}")
        quantizer = MultiScaleBSQuantizer(
            ScaleSchedule(c.sizes), c.bits, beta=c.beta, entropy=c.entropy, balance=c.balance,
            sharpness=c.sharpness, group=c.group,
        )  # fmt: skip
        super().__init__(config, quantizer, c.bits)

    @property
    def token_shape(self) -> tuple[int]:
        """(L,): how many tokens all maps hold together."""
        return (self.quantizer.schedule.num_tokens,)

    @torch.no_grad()
    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] of a pyramid, or of its first scales only.

        Raises:
            ValueError: on maps that do not fit, or tokens outside the vocabulary.
        """
        schedule, vocab = self.quantizer.schedule, self.quantizer.vocab_sizes[0]
        maps = as_pyramid(tokens, schedule, vocab, num_scales)
        return self.decode_features(self.quantizer.embed(maps)).clamp(-1, 1)
