"""VQ-VAE: the encoder's vectors become the nearest entries of a codebook.

Source: van den Oord et al. 2017, "Neural Discrete Representation Learning" (arXiv:1711.00937),
equation 3 and appendix A.1.

    k = argmin_j |z - e_j|^2,    z_q = z + sg(e_k - z),    L = beta |z - sg(e_k)|^2

The codebook follows the vectors as online k-means, by exponential averages of the number n_j and
the sum s_j of the vectors that chose code j in a batch:

    N_j <- g N_j + (1 - g) n_j,    m_j <- g m_j + (1 - g) s_j,    e_j = m_j / N_j

Against collapse: the codes start on the first batch's vectors, and a code that falls below a share
of even use moves onto a random vector of the batch. That revival is RQ-VAE's and Jukebox's, not the
paper's. Left out: the PixelCNN over the tokens, and the sum over processes under torchrun.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantizer import CodebookQuantizer, nearest, rows, some_rows, straight_through
from .tokenizer import CodebookConfig, GridTokenizer

EPSILON = 1e-5
"""Smooths the counts, so that a code without vectors divides by more than zero."""


@dataclass(frozen=True)
class VQVAEConfig(CodebookConfig):
    """Shape of a `VQVAE`."""

    decay: float = 0.99
    """g, of the averages."""
    revive_below: float = 0.1
    """Share of even use under which a code is revived; 0 for never."""


class EMAQuantizer(CodebookQuantizer):
    """Nearest neighbour in a codebook that follows by averages.

    Args:
        vocab_size, channels, beta, decay, revive_below: as in `VQVAEConfig`.
        depth: tokens a position, for the RQ-VAE.
    """

    def __init__(
        self,
        vocab_size: int,
        channels: int,
        *,
        beta: float = 0.25,
        decay: float = 0.99,
        revive_below: float = 0.1,
        depth: int = 1,
    ) -> None:
        super().__init__(vocab_size, channels, beta=beta, depth=depth)
        self.decay, self.revive_below = decay, revive_below
        self.codebook.requires_grad_(False)
        self.register_buffer("count", torch.ones(vocab_size))  # N
        self.register_buffer("total", self.codebook.detach().clone())  # m

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> codes (N, C), tokens (N,), commitment loss."""
        tokens = nearest(x.detach(), self.codebook)
        chosen = self.codebook[tokens]
        return straight_through(x, chosen), tokens, self.beta * F.mse_loss(x, chosen)

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Places the codes on vectors of z (B, C, h, w)."""
        super().start(z)
        self.count.fill_(1.0)
        self.total.copy_(self.codebook)

    @torch.no_grad()
    def update(self, z: Tensor, tokens: Tensor) -> None:
        """One step of the averages on z (B, C, h, w) and its tokens (B, h, w), then revival."""
        self.average(rows(z), tokens.flatten())
        self.revive(rows(z))

    def average(self, x: Tensor, tokens: Tensor) -> None:
        """Moves the codes towards the vectors (N, C) that chose them by tokens (N,)."""
        hits = F.one_hot(tokens, len(self.codebook)).to(x.dtype)  # (N, V)
        self.count.lerp_(hits.sum(0), 1 - self.decay)
        self.total.lerp_(hits.T @ x, 1 - self.decay)
        all_, codes = self.count.sum(), len(self.codebook)
        smooth = (self.count + EPSILON) / (all_ + codes * EPSILON) * all_
        self.codebook.copy_(self.total / smooth[:, None])

    def revive(self, x: Tensor) -> None:
        """Moves codes that are hardly used onto random vectors of x (N, C)."""
        even = self.count.mean()
        dead = self.count < self.revive_below * even
        moved = some_rows(x, int(dead.sum()))
        self.codebook[dead], self.count[dead], self.total[dead] = moved, even, even * moved


class VQVAE(GridTokenizer):
    """VAR's encoder and decoder around an `EMAQuantizer`: (B, side, side) tokens an image."""

    config_class = VQVAEConfig
    kind = "vqvae"

    def __init__(self, config: VQVAEConfig) -> None:
        c = config
        quantizer = EMAQuantizer(
            c.vocab_size, c.code_channels, beta=c.beta, decay=c.decay, revive_below=c.revive_below
        )
        super().__init__(config, quantizer, c.code_channels)
