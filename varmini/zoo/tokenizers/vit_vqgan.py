"""ViT-VQGAN: transformers as encoder and decoder, and a look-up among short vectors of length 1.

Source: Yu et al. 2021, "Vector-Quantized Image Modeling with Improved VQGAN" (arXiv:2110.04627),
sections 3.1 and 3.2.

    k = argmin_j |z/|z| - e_j/|e_j||^2 = argmax_j cos(z, e_j),    z_q = e_k/|e_k|
    L = |sg(z/|z|) - e_k/|e_k||^2 + beta |z/|z| - sg(e_k/|e_k|)|^2

The paper's remedy for collapse: few channels for the look-up (32, where VQGAN has 256), all of
length 1. Left out: the adversary (a StyleGAN discriminator; see `vqgan`), the logit-Laplace loss,
the hidden layer with tanh before the look-up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantizer import CodebookQuantizer, nearest, straight_through
from .tokenizer import CodebookConfig, ImageTokenizer


@dataclass(frozen=True)
class ViTVQGANConfig(CodebookConfig):
    """Shape of a `ViTVQGAN`; of the convolutional network's fields only the factor counts, which is
    the side of a patch."""

    code_channels: int = 4
    """C, length of a code; the more, the fewer codes are used."""
    vit_width: int = 64
    """Channels of the transformers."""
    depth: int = 4
    """Blocks of each transformer."""
    heads: int = 4
    """Attention heads."""


class CosineQuantizer(CodebookQuantizer):
    """Nearest neighbour by angle, in a codebook that learns by gradient."""

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) of any length -> unit codes (N, C), tokens (N,), loss."""
        x, codebook = F.normalize(x, dim=1), F.normalize(self.codebook, dim=1)
        tokens = nearest(x.detach(), codebook.detach())
        chosen = codebook[tokens]
        loss = F.mse_loss(chosen, x.detach()) + self.beta * F.mse_loss(x, chosen.detach())
        return straight_through(x, chosen), tokens, loss

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) -> codes (..., C) of length 1."""
        return F.normalize(self.codebook[tokens], dim=-1)

    def start(self, z: Tensor) -> None:
        """Places the codes on vectors of z (B, C, h, w)."""
        super().start(F.normalize(z, dim=1))


def transformer(width: int, depth: int, heads: int) -> nn.Sequential:
    """Pre-norm blocks without mask and a last norm: (B, N, width) -> (B, N, width)."""
    blocks = [
        nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )
        for _ in range(depth)
    ]  # fmt: skip
    return nn.Sequential(*blocks, nn.LayerNorm(width))


class ViTEncoder(nn.Module):
    """Images (B, C, H, W) -> features (B, code_channels, side, side), one a patch."""

    def __init__(self, c: ViTVQGANConfig) -> None:
        super().__init__()
        self.side, patch = c.side, c.image_size // c.side
        self.fold = nn.PixelUnshuffle(patch)
        self.read = nn.Linear(c.image_channels * patch**2, c.vit_width)
        self.position = nn.Parameter(0.02 * torch.randn(c.side**2, c.vit_width))
        self.blocks = transformer(c.vit_width, c.depth, c.heads)
        self.write = nn.Linear(c.vit_width, c.code_channels)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.fold(images).flatten(2).transpose(1, 2)  # (B, side^2, C patch^2)
        x = self.write(self.blocks(self.read(patches) + self.position))
        return x.transpose(1, 2).unflatten(2, (self.side, self.side))


class ViTDecoder(nn.Module):
    """Codes (B, code_channels, side, side) -> images (B, C, H, W)."""

    def __init__(self, c: ViTVQGANConfig) -> None:
        super().__init__()
        self.side, patch = c.side, c.image_size // c.side
        self.read = nn.Linear(c.code_channels, c.vit_width)
        self.position = nn.Parameter(0.02 * torch.randn(c.side**2, c.vit_width))
        self.blocks = transformer(c.vit_width, c.depth, c.heads)
        self.write = nn.Linear(c.vit_width, c.image_channels * patch**2)
        self.unfold = nn.PixelShuffle(patch)

    def forward(self, z_q: Tensor) -> Tensor:
        x = self.read(z_q.flatten(2).transpose(1, 2)) + self.position  # (B, side^2, width)
        pixels = self.write(self.blocks(x)).transpose(1, 2)
        return self.unfold(pixels.unflatten(2, (self.side, self.side)))


class ViTVQGAN(ImageTokenizer):
    """Two transformers around a `CosineQuantizer`: (B, side, side) tokens an image."""

    config_class = ViTVQGANConfig
    kind = "vit-vqgan"

    def __init__(self, config: ViTVQGANConfig) -> None:
        quantizer = CosineQuantizer(config.vocab_size, config.code_channels, beta=config.beta)
        super().__init__(config, quantizer, ViTEncoder(config), ViTDecoder(config))
