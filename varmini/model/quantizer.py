"""The multi-scale residual quantizer: Algorithms 1 and 2 of the VAR paper, and their loss."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.precision import full_float32
from .scales import ScaleSchedule

LOOKUP_BYTES = 1 << 26
"""Most memory that the distances of vectors to codes take at a time."""


@dataclass
class Quantized:
    """What the quantizer's training pass returns."""

    f_hat: Tensor
    """(B, C, H, W): the quantized features; gradients pass straight through to f."""
    tokens: list[Tensor]
    """The token pyramid, K LongTensors (B, h_k, w_k)."""
    loss: Tensor
    """Scalar: codebook and commitment loss, averaged over scales."""
    usage: Tensor
    """(K,) share of the codebook seen in this batch, per scale."""


class Phi(nn.Conv2d):
    """phi(h) = (1 - s) h + s conv3x3(h): a touch-up after upsampling (Algorithm 1, line 8)."""

    def __init__(self, channels: int, strength: float) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.strength = strength

    def forward(self, h: Tensor) -> Tensor:
        return (1 - self.strength) * h + self.strength * super().forward(h)


@functools.cache
def _nearest_tick(k: int, scales: int, n: int) -> int:
    """Which of n ticks between 0 and 1 lies nearest to k / (K - 1)."""
    # The official code spaces four phis by thirds, any other number by halves. Ties (k = 2 of
    # ten scales) are decided by rounding, so this must be its very arithmetic, in numpy.
    edge = 1 / 3 / n if n == 4 else 1 / 2 / n
    where = k / (scales - 1) if scales > 1 else 0.0
    return int(np.abs(np.linspace(edge, 1 - edge, n) - where).argmin())


class MultiScaleQuantizer(nn.Module):
    """Turns a feature map into K token maps, each coding what the coarser ones left over.

    One codebook serves all scales. All arithmetic runs in float32, also under autocast, and phi
    without TF32 on a GPU: the residual shrinks from scale to scale, and rounding changes tokens.

    Args:
        schedule: the sizes of the token maps; the last is the size of the feature map.
        vocab_size: V, codes in the codebook.
        channels: C, the length of a code.
        num_phi: phi convolutions, shared over neighbouring scales; 0 leaves phi out.
        phi_strength: the share s of the convolution in phi.
        beta: weight of the commitment loss.
        lookup: "euclidean" (the paper's) or "cosine" nearest neighbour.

    Raises:
        ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        schedule: ScaleSchedule,
        vocab_size: int,
        channels: int,
        *,
        num_phi: int = 4,
        phi_strength: float = 0.5,
        beta: float = 0.25,
        lookup: str = "euclidean",
    ) -> None:
        super().__init__()
        if lookup not in ("euclidean", "cosine"):
            raise ValueError(f"lookup is {lookup!r}, expected 'euclidean' or 'cosine'")
        if vocab_size < 1 or channels < 1 or num_phi < 0:
            raise ValueError(
                f"vocab_size={vocab_size}, channels={channels}, num_phi={num_phi}: "
                f"expected at least 1, 1 and 0"
            )
        self.schedule, self.vocab_size, self.channels = schedule, vocab_size, channels
        self.beta, self.lookup = beta, lookup
        self.codebook = nn.Embedding(vocab_size, channels)
        # A codebook near zero would let a few codes take every vector (the usual +-1/V collapses).
        nn.init.normal_(self.codebook.weight)
        self.phis = nn.ModuleList(Phi(channels, phi_strength) for _ in range(num_phi))

    # ------------------------------------------------------------------ the steps of the algorithms

    def phi_index(self, k: int) -> int:
        """Which phi serves scale k (from 0): the one whose tick lies nearest to k / (K - 1)."""
        return _nearest_tick(k, len(self.schedule), len(self.phis))

    def lookup_tokens(self, z: Tensor) -> Tensor:
        """Nearest codes: z (N, C) -> tokens (N,), by matrix products in float32."""
        codes = self.codebook.weight
        rows = max(1, LOOKUP_BYTES // (4 * self.vocab_size))
        if len(z) > rows:
            return torch.cat([self.lookup_tokens(part) for part in z.split(rows)])
        if self.lookup == "cosine":
            # argmax_j <z, e_j> / (|z| |e_j|)
            return (F.normalize(z, dim=1) @ F.normalize(codes, dim=1).T).argmax(1)
        # argmin_j |z - e_j|^2 = argmin_j |e_j|^2 - 2 <z, e_j>
        return torch.addmm(codes.square().sum(1), z, codes.T, beta=1, alpha=-2).argmin(1)

    def contribution(self, k: int, codes: Tensor) -> Tensor:
        """What scale k adds to f_hat: phi_k(up(e)), with e (B, C, h_k, w_k) -> (B, C, H, W)."""
        with full_float32(codes.device.type):
            codes = codes.float()
            if k != len(self.schedule) - 1:
                codes = F.interpolate(codes, size=self.schedule.grids[-1], mode="bicubic")
            return self.phis[self.phi_index(k)](codes) if len(self.phis) else codes

    def down(self, f: Tensor, k: int) -> Tensor:
        """Averages a full-size map down to scale k's grid: (B, C, H, W) -> (B, C, h_k, w_k)."""
        if self.schedule.grids[k] == self.schedule.grids[-1]:
            return f
        return F.interpolate(f, size=self.schedule.grids[k], mode="area")

    def vectors(self, rest: Tensor, k: int) -> Tensor:
        """What scale k looks up of a residual (B, C, H, W): down(R) as rows (B h_k w_k, C)."""
        return self.down(rest, k).permute(0, 2, 3, 1).reshape(-1, self.channels)

    def embed(self, tokens: Tensor) -> Tensor:
        """Codes of a token map: (B, h, w) -> (B, C, h, w)."""
        return self.codebook(tokens).permute(0, 3, 1, 2)

    # --------------------------------------------------------------------------- the two algorithms

    @torch.no_grad()
    def encode(self, f: Tensor) -> list[Tensor]:
        """Algorithm 1: features (B, C, H, W) -> token pyramid, K LongTensors (B, h_k, w_k).

        Raises:
            ValueError: when f does not have the shape of the last scale.
        """
        return self._residual_pass(f)[0]

    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Algorithm 2: token pyramid -> f_hat (B, C, H, W).

        Args:
            num_scales: add up the first so many scales only; None for all that are given.

        Raises:
            ValueError: on maps that do not fit the schedule, tokens outside the codebook, or a
                number of scales outside [1, K].
        """
        return self.cumulative(tokens, num_scales)[-1]

    def cumulative(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> list[Tensor]:
        """f_hat after 1, 2, ... scales, each (B, C, H, W). Arguments and errors as in `decode`."""
        count = len(tokens) if num_scales is None else num_scales
        if not 1 <= count <= len(self.schedule):
            raise ValueError(f"num_scales is {count}, expected 1 to {len(self.schedule)}")
        self.schedule.check(tokens[:count], self.vocab_size, count)
        with full_float32(self.codebook.weight.device.type):
            f_hats: list[Tensor] = []
            for k in range(count):
                # f_hat_k = f_hat_{k-1} + phi_k(up(e[r_k]))
                h = self.contribution(k, self.embed(tokens[k]))
                f_hats.append(f_hats[-1] + h if f_hats else h)
        return f_hats

    @torch.no_grad()
    def teacher_inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """The transformer's input in training: f_hat of the scales before, at the next one's size.

        Args:
            tokens: the pyramid of the true image.

        Returns:
            (B, L - h_1 w_1, C): block k = 2..K holds down(f_hat_{k-1}, h_k x w_k), row by row.
        """
        last = len(self.schedule) - 1
        if last == 0:
            self.schedule.check(tokens, self.vocab_size)
            return self.codebook.weight.new_zeros(len(tokens[0]), 0, self.channels)
        self.schedule.check(tokens, self.vocab_size)
        f_hats = self.cumulative(tokens, last)
        return torch.cat([self.next_input(f_hat, k) for k, f_hat in enumerate(f_hats, 1)], dim=1)

    def next_input(self, f_hat: Tensor, k: int) -> Tensor:
        """The input of scale k (from 0), given f_hat of all before it: (B, h_k w_k, C)."""
        return self.down(f_hat, k).flatten(2).transpose(1, 2)

    # ------------------------------------------------------------------------------------- training

    def forward(self, f: Tensor) -> Quantized:
        """Quantizes f (B, C, H, W) with a straight-through gradient and the loss for the codebook.

        L_VQ = 1/K sum_k |f_hat_k - sg(f)|^2 + beta |sg(f_hat_k) - f|^2, with f_hat_k cumulative
        (section 3.1, equation 5, as the official code averages it). Codebook and phi learn from
        L_VQ alone, because f_hat reaches the decoder as f + sg(f_hat - f).
        """
        tokens, f_hats = self._residual_pass(f)
        f32, target = f.float(), f.detach().float()
        loss = sum(
            F.mse_loss(f_hat, target) + self.beta * F.mse_loss(f32, f_hat.detach())
            for f_hat in f_hats
        ) / len(f_hats)
        straight_through = f32 + (f_hats[-1] - f32).detach()
        seen = [
            torch.zeros(self.vocab_size, device=f.device).index_fill_(0, t.flatten(), 1.0).mean()
            for t in tokens
        ]
        return Quantized(straight_through, tokens, loss, torch.stack(seen))

    def _residual_pass(self, f: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Algorithm 1 with everything kept: tokens and cumulative f_hat of every scale."""
        expected = (self.channels, *self.schedule.grids[-1])
        if f.ndim != 4 or tuple(f.shape[1:]) != expected:
            raise ValueError(
                f"features have shape {tuple(f.shape)}, expected (B, {expected[0]}, "
                f"{expected[1]}, {expected[2]}): the schedule must end at their size"
            )
        tokens, f_hats = [], []
        with full_float32(f.device.type):
            rest = f.detach().float()
            for k, (h, w) in enumerate(self.schedule.grids):
                # r_k = nearest(down(R)); f_hat += phi_k(up(e[r_k])); R -= phi_k(up(e[r_k]))
                with torch.no_grad():
                    tokens.append(self.lookup_tokens(self.vectors(rest, k)).view(-1, h, w))
                added = self.contribution(k, self.embed(tokens[-1]))
                f_hats.append(f_hats[-1] + added if f_hats else added)
                rest = rest - added.detach()
        return tokens, f_hats

    @torch.no_grad()
    def residuals(self, f: Tensor) -> list[Tensor]:
        """The vectors that each scale looks up, K tensors (B h_k w_k, C)."""
        f_hats = [torch.zeros_like(f, dtype=torch.float32), *self._residual_pass(f)[1][:-1]]
        return [self.vectors(f.float() - f_hat, k) for k, f_hat in enumerate(f_hats)]
