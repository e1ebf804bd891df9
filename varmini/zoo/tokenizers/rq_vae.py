"""RQ-VAE: D codes a position, each quantizing what the ones before left over.

Source: Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941), equations 3 to 8.

    r_0 = z,    k_d = argmin_j |r_{d-1} - e_j|^2,    r_d = r_{d-1} - e_{k_d}
    z^(d) = sum_{i <= d} e_{k_i},    z_q = z + sg(z^(D) - z),    L = beta mean_d |z - sg(z^(d))|^2

One codebook for all depths: V codes make V^D values. It follows as the VQ-VAE's does, once per
depth; at depth 1 this is the VQ-VAE. Unlike VAR's residuals these live at one resolution. Changed:
all depths look up the same codebook, which moves after the step (the official code moves it between
two depths), and a code is revived by its share of even use. Left out: the adversary (see `vqgan`),
and soft targets for the transformer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantizer import nearest, rows, straight_through
from .tokenizer import GridTokenizer
from .vqvae import EMAQuantizer, VQVAEConfig


@dataclass(frozen=True)
class RQVAEConfig(VQVAEConfig):
    """Shape of an `RQVAE`; other fields as in the VQ-VAE's."""

    depth: int = 4
    """D, tokens a position."""


class ResidualQuantizer(EMAQuantizer):
    """Nearest neighbours of what is left, D times; tokens have a last axis for the depth."""

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> sums of codes (N, C), tokens (N, D), commitment loss."""
        total, tokens, losses = torch.zeros_like(x), [], []
        for _ in self.vocab_sizes:
            tokens.append(nearest(x.detach() - total, self.codebook))
            total = total + self.codebook[tokens[-1]]  # z^(d)
            losses.append(F.mse_loss(x, total))
        loss = self.beta * torch.stack(losses).mean()
        return straight_through(x, total), torch.stack(tokens, dim=1), loss

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (..., D), or the first few of them, -> sums of codes (..., C)."""
        return self.codebook[tokens].sum(-2)

    @torch.no_grad()
    def update(self, z: Tensor, tokens: Tensor) -> None:
        """One step of the averages per depth on z (B, C, h, w), tokens (B, h, w, D); revival."""
        chosen = self.codebook[tokens.flatten(0, 2)]  # (N, D, C), before any code moves
        left = rows(z)[:, None] - chosen.cumsum(1) + chosen  # r_{d-1}
        for d, tokens_d in enumerate(tokens.flatten(0, 2).T):
            self.average(left[:, d], tokens_d)
        self.revive(left.flatten(0, 1))


class RQVAE(GridTokenizer):
    """VAR's encoder and decoder around a `ResidualQuantizer`: (B, side, side, D) tokens."""

    config_class = RQVAEConfig
    kind = "rq-vae"

    def __init__(self, config: RQVAEConfig) -> None:
        c = config
        quantizer = ResidualQuantizer(
            c.vocab_size, c.code_channels, beta=c.beta, decay=c.decay,
            revive_below=c.revive_below, depth=c.depth,
        )  # fmt: skip
        super().__init__(config, quantizer, c.code_channels)

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """Shape of an image's tokens, with an axis for the depth also at depth 1."""
        return self.config.side, self.config.side, self.config.depth
