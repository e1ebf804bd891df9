"""The multi-scale residual quantizer: Algorithms 1 and 2 of the VAR paper, and their loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import as_pyramid, check_features
from .scales import ScaleSchedule


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
    """phi(h) = (1 - s) h + s conv3x3(h), after upsampling (Algorithm 1, line 8)."""

    def __init__(self, channels: int, strength: float) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.strength = strength

    def forward(self, h: Tensor) -> Tensor:
        conv = F.conv2d(h, self.weight.to(h.dtype), self.bias.to(h.dtype), padding=1)
        return (1 - self.strength) * h + self.strength * conv


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is in float64: a model cast to bfloat16 quantizes in float32, too."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def full_float32(device: str) -> Iterator[None]:
    """No autocast inside, and on a GPU no TF32 convolutions (cuDNN's default for float32).

    Matrix products follow `torch.set_float32_matmul_precision`, by default full float32 as well.
    """
    with torch.autocast(device, enabled=False):
        if device != "cuda":
            yield
            return
        convolutions = torch.backends.cudnn.conv
        before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
        try:
            yield
        finally:
            convolutions.fp32_precision = before


def nearest_phis(scales: int, phis: int) -> list[int]:
    """Which phi serves each scale: of ticks between 0 and 1, the one nearest to k / (K - 1)."""
    if not phis:
        return []
    # The official code spaces four phis by thirds, any other number by halves. Ties (k = 2 of
    # ten scales) are decided by rounding, so this must be its very arithmetic, in numpy.
    edge = 1 / 3 / phis if phis == 4 else 1 / 2 / phis
    ticks = np.linspace(edge, 1 - edge, phis)
    return [int(np.abs(ticks - k / max(1, scales - 1)).argmin()) for k in range(scales)]


class MultiScaleQuantizer(nn.Module):
    """Turns a feature map into K token maps, each coding the residual of the coarser ones.

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
        ValueError: on another lookup; and, from every method that takes features (B, C, H, W), when
            they do not have the shape of the last scale.
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
        self.schedule, self.vocab_size, self.channels = schedule, vocab_size, channels
        self.beta, self.lookup = beta, lookup
        self.codebook = nn.Embedding(vocab_size, channels)
        # A codebook near zero would let a few codes take every vector (the usual +-1/V collapses).
        nn.init.normal_(self.codebook.weight)
        self.phis = nn.ModuleList(Phi(channels, phi_strength) for _ in range(num_phi))
        self._phi_of_scale = nearest_phis(len(schedule), num_phi)

    def phi_index(self, k: int) -> int:
        """Which phi serves scale k (from 0)."""
        return self._phi_of_scale[k]

    def lookup_tokens(self, z: Tensor) -> Tensor:
        """Nearest codes: z (N, C) -> tokens (N,), by matrix products in float32."""
        codes = self.codebook.weight.to(z.dtype)
        if self.lookup == "cosine":
            # argmax_j <z, e_j> / (|z| |e_j|)
            return (F.normalize(z, dim=1) @ F.normalize(codes, dim=1).T).argmax(1)
        # argmin_j |z - e_j|^2 = argmin_j |e_j|^2 - 2 <z, e_j>
        return torch.addmm(codes.square().sum(1), z, codes.T, beta=1, alpha=-2).argmin(1)

    def contribution(self, k: int, codes: Tensor) -> Tensor:
        """What scale k adds to f_hat: phi_k(up(e)), with e (B, C, h_k, w_k) -> (B, C, H, W)."""
        with full_float32(codes.device.type):
            codes = at_least_float32(codes)
            if k != len(self.schedule) - 1:
                codes = F.interpolate(codes, size=self.schedule.grids[-1], mode="bicubic")
            return self.phis[self.phi_index(k)](codes) if len(self.phis) else codes

    def down(self, f: Tensor, k: int) -> Tensor:
        """Averages a full-size map down to scale k's grid: (B, C, H, W) -> (B, C, h_k, w_k)."""
        if self.schedule.grids[k] == self.schedule.grids[-1]:
            return f
        return F.interpolate(f, size=self.schedule.grids[k], mode="area")

    def vectors(self, residual: Tensor, k: int) -> Tensor:
        """What scale k looks up of a residual R (B, C, H, W): down(R) as rows (B h_k w_k, C)."""
        return self.down(residual, k).permute(0, 2, 3, 1).reshape(-1, self.channels)

    def embed(self, tokens: Tensor) -> Tensor:
        """Codes of a token map: (B, h, w) -> (B, C, h, w)."""
        return self.codebook(tokens).permute(0, 3, 1, 2)

    @torch.no_grad()
    def encode(self, f: Tensor) -> list[Tensor]:
        """Algorithm 1: features (B, C, H, W) -> token pyramid, K LongTensors (B, h_k, w_k)."""
        check_features(f, self.channels, self.schedule.grids[-1])
        return self._residual_pass(f)[0]

    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Algorithm 2: token pyramid -> f_hat (B, C, H, W).

        Args:
            num_scales: add up the first so many scales only; None for all that are given.

        Raises:
            ValueError: on maps that do not fit the schedule, tokens outside the codebook, or
                num_scales outside [1, K].
        """
        return self.cumulative(tokens, num_scales)[-1]

    def cumulative(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> list[Tensor]:
        """f_hat after 1, 2, ... scales, each (B, C, H, W). Arguments and errors as in `decode`."""
        count = len(tokens) if num_scales is None else num_scales
        f_hats: list[Tensor] = []
        for k, map_ in enumerate(as_pyramid(tokens, self.schedule, self.vocab_size, count)):
            # f_hat_k = f_hat_{k-1} + phi_k(up(e[r_k]))
            h = self.contribution(k, self.embed(map_))
            f_hats.append(f_hats[-1] + h if f_hats else h)
        return f_hats

    @torch.no_grad()
    def teacher_inputs(self, tokens: Sequence[Tensor]) -> Tensor:
        """The transformer's input in training: f_hat of the scales before, at the next one's size.

        Args:
            tokens: the pyramid of the true image.

        Returns:
            (B, L - h_1 w_1, C): block k = 2..K holds down(f_hat_{k-1}, h_k x w_k), row by row.
            Changing r_1 alone changes every block, because f_hat accumulates.
        """
        f_hats = self.cumulative(as_pyramid(tokens, self.schedule))[:-1]
        if not f_hats:  # of a single scale
            return self.codebook.weight.new_zeros(tokens[0].shape[0], 0, self.channels)
        return torch.cat([self.next_input(f_hat, k) for k, f_hat in enumerate(f_hats, 1)], dim=1)

    def next_input(self, f_hat: Tensor, k: int) -> Tensor:
        """The input of scale k (from 0), given f_hat of all before it: (B, h_k w_k, C)."""
        return self.down(f_hat, k).flatten(2).transpose(1, 2)

    def forward(self, f: Tensor) -> Quantized:
        """Quantizes f (B, C, H, W) with a straight-through gradient and the loss for the codebook.

        L_VQ = 1/K sum_k |f_hat_k - sg(f)|^2 + beta |sg(f_hat_k) - f|^2, with f_hat_k cumulative
        (section 3.1, equation 5, as the official code averages it). Codebook and phi learn from
        L_VQ alone, because f_hat reaches the decoder as f + sg(f_hat - f).
        """
        check_features(f, self.channels, self.schedule.grids[-1])
        tokens, f_hats = self._residual_pass(f)
        f32, target = at_least_float32(f), at_least_float32(f.detach())
        loss = sum(
            F.mse_loss(f_hat, target) + self.beta * F.mse_loss(f32, f_hat.detach())
            for f_hat in f_hats
        ) / len(f_hats)
        straight_through = f32 + (f_hats[-1] - f32).detach()
        seen = [
            torch.zeros(self.vocab_size, device=f.device).index_fill(0, t.flatten(), 1.0).mean()
            for t in tokens
        ]
        return Quantized(straight_through, tokens, loss, torch.stack(seen))

    def _residual_pass(self, f: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Algorithm 1 with everything kept: tokens and cumulative f_hat of every scale."""
        tokens, f_hats = [], []
        with full_float32(f.device.type):
            residual = at_least_float32(f.detach())
            for k, (h, w) in enumerate(self.schedule.grids):
                # r_k = nearest(down(R)); f_hat += phi_k(up(e[r_k])); R -= phi_k(up(e[r_k]))
                with torch.no_grad():
                    nearest = self.lookup_tokens(self.vectors(residual, k))
                tokens.append(nearest.view(f.shape[0], h, w))
                added = self.contribution(k, self.embed(tokens[-1]))
                f_hats.append(f_hats[-1] + added if f_hats else added)
                residual = residual - added.detach()
        return tokens, f_hats

    @torch.no_grad()
    def residuals(self, f: Tensor) -> list[Tensor]:
        """The vectors that each scale looks up, K tensors (B h_k w_k, C)."""
        f = at_least_float32(f)
        f_hats = [torch.zeros_like(f), *self._residual_pass(f)[1][:-1]]
        return [self.vectors(f - f_hat, k) for k, f_hat in enumerate(f_hats)]
