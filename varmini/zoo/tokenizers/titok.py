"""TiTok: an image as a short row of latent tokens, without a grid.

Source: Yu et al. 2024, "An Image is Worth 32 Tokens for Reconstruction and Generation"
(arXiv:2406.07550), sections 3.2 and 3.3.

    [.., z_1 .. z_K] = ViT([patches, K learned latents]),    k_i = argmax_j cos(z_i, e_j)
    logits = ViT([side^2 mask tokens, e_{k_1} .. e_{k_K}])           one softmax per position
    stage 1:  L = CE(logits, tokens of a trained VQ-VAE) + L_VQ      (its "proxy codes")
    stage 2:  L = distance(D(softmax(logits) E), x), of both decoders; encoder and latents frozen

with E the codebook and D the decoder of that VQ-VAE. `before_step` changes from stage 1 to 2. Left
out: the class token beside the patches, and the adversary of stage 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.quantizer import full_float32
from ...model.tokenizer import Reconstruction
from .tokenizer import ImageTokenizer
from .vit_vqgan import CosineQuantizer, transformer
from .vqvae import VQVAE, VQVAEConfig


@dataclass(frozen=True)
class TiTokConfig(VQVAEConfig):
    """Shape of a `TiTok`; the fields of `VQVAEConfig` are those of the VQ-VAE that it needs."""

    side: int = 8
    """Side of the proxy's token map."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level of the proxy in units of `width`."""
    latents: int = 16
    """K, tokens an image."""
    latent_vocab: int = 512
    """Codes for them."""
    latent_channels: int = 4
    """Length of their codes."""
    vit_patch: int = 4
    """Side of the encoder's patches in pixels."""
    vit_width: int = 64
    """Channels of the transformers."""
    vit_depth: int = 4
    """Blocks of each transformer."""
    heads: int = 4
    """Attention heads."""
    second_stage: float = 0.6
    """Share of the training after which stage 2 begins."""


class LatentEncoder(nn.Module):
    """Images (B, C, H, W) -> K latents as a map of one row, (B, latent_channels, 1, K)."""

    def __init__(self, c: TiTokConfig) -> None:
        super().__init__()
        self.fold, count = nn.PixelUnshuffle(c.vit_patch), (c.image_size // c.vit_patch) ** 2
        self.read = nn.Linear(c.image_channels * c.vit_patch**2, c.vit_width)
        self.position = nn.Parameter(0.02 * torch.randn(count, c.vit_width))
        self.latents = nn.Parameter(0.02 * torch.randn(c.latents, c.vit_width))
        self.blocks = transformer(c.vit_width, c.vit_depth, c.heads)
        self.write = nn.Linear(c.vit_width, c.latent_channels)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.read(self.fold(images).flatten(2).transpose(1, 2)) + self.position
        latents = self.latents.expand(len(images), -1, -1)  # (B, K, width)
        x = self.blocks(torch.cat([patches, latents], dim=1))[:, patches.shape[1] :]
        return self.write(x).transpose(1, 2)[:, :, None]


class ProxyDecoder(nn.Module):
    """Codes (B, latent_channels, 1, K) -> logits of the proxy codes (B, V, side, side)."""

    def __init__(self, c: TiTokConfig) -> None:
        super().__init__()
        self.side = c.side
        self.read = nn.Linear(c.latent_channels, c.vit_width)
        self.latent_position = nn.Parameter(0.02 * torch.randn(c.latents, c.vit_width))
        # The one mask token and the positions of its copies, added up.
        self.masks = nn.Parameter(0.02 * torch.randn(c.side**2, c.vit_width))
        self.blocks = transformer(c.vit_width, c.vit_depth, c.heads)
        self.write = nn.Linear(c.vit_width, c.vocab_size)

    def forward(self, z_q: Tensor) -> Tensor:
        latents = self.read(z_q[:, :, 0].transpose(1, 2)) + self.latent_position
        masks = self.masks.expand(len(z_q), -1, -1)  # (B, side^2, width)
        x = self.blocks(torch.cat([masks, latents], dim=1))[:, : masks.shape[1]]
        return self.write(x).transpose(1, 2).unflatten(2, (self.side, self.side))


class TiTok(ImageTokenizer):
    """(B, K) tokens an image. Before training, load a trained VQ-VAE into `proxy`."""

    config_class = TiTokConfig
    kind = "titok"
    by_rows = ("encoder", "decoder", "proxy.decoder")

    def __init__(self, config: TiTokConfig) -> None:
        c = config
        quantizer = CosineQuantizer(c.latent_vocab, c.latent_channels, beta=c.beta)
        super().__init__(config, quantizer, LatentEncoder(c), ProxyDecoder(c))
        self.proxy = VQVAE(c)
        self.before_step(0.0)

    @property
    def token_shape(self) -> tuple[int]:
        """Shape of an image's tokens."""
        return (self.config.latents,)

    def before_step(self, share: float, shown: bool = True) -> None:
        """Stage 1 or 2, by the share of the training that is done; stage 1 needs no images."""
        self.second = share >= self.config.second_stage
        self.shown = shown or self.second

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> tokens (B, K). Errors as of the other tokenizers."""
        return super().encode(images)[:, 0]

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K) -> images (B, C, H, W) in [-1, 1]. Errors as of the other tokenizers."""
        self.check_tokens(tokens)
        return self.decode_features(self.quantizer.embed(tokens[:, None])).clamp(-1, 1)

    def decode_features(self, z_q: Tensor) -> Tensor:
        """Both decoders: codes (B, latent_channels, 1, K) -> images, not clamped."""
        return self.pixels(self.decoder(z_q))

    def pixels(self, logits: Tensor) -> Tensor:
        """Logits (B, V, side, side) -> images, by mixtures of the proxy's codes."""
        codebook = self.proxy.quantizer.codebook
        mixed = torch.einsum("bvhw,vc->bchw", logits.float().softmax(1), codebook)
        return self.proxy.decoder(mixed).float()

    def forward(self, images: Tensor) -> Reconstruction:
        """The training pass: a gradient from `loss` alone in stage 1, from the images in 2.

        In stage 1, if none are to be shown, its images are None.
        """
        learning = torch.is_grad_enabled()
        with torch.set_grad_enabled(learning and not self.second):
            z = self.features(images)
            with full_float32(z.device.type):
                quantized = self.quantizer(z)
        logits, loss = self.decoder(quantized.z_q), quantized.loss
        if not self.second:
            loss = loss + F.cross_entropy(logits.float(), self.proxy.encode(images))
        with torch.set_grad_enabled(learning and self.second):
            drawn = self.pixels(logits) if self.shown else None
        return Reconstruction(drawn, quantized.tokens[:, 0], loss, quantized.usage, z)
