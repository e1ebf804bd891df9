"""Images to token pyramids and back: a convolutional encoder and decoder around the quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime.pretrained import Pretrained
from .autoencoder import Decoder, Encoder
from .checks import as_pyramid, check_images
from .config import TokenizerConfig
from .quantizer import MultiScaleQuantizer
from .scales import ScaleSchedule


@dataclass
class Reconstruction:
    """What the tokenizer's training pass returns."""

    images: Tensor
    """(B, C, H, W) in about [-1, 1]: the decoder's output, not clamped."""
    tokens: list[Tensor]
    """The token pyramid, K LongTensors (B, h_k, w_k)."""
    loss: Tensor
    """Scalar: the quantizer's codebook and commitment loss."""
    usage: Tensor
    """(K,) share of the codebook seen in this batch, per scale."""
    features: Tensor
    """(B, code_channels, h_K, w_K): the encoder's output, before quantization."""


class MultiScaleVQVAE(nn.Module, Pretrained):
    """VAR's tokenizer: an encoder, a multi-scale residual quantizer and a decoder (section 3.1).

    Raises:
        ValueError: when the configuration contradicts itself; and, from every method that takes
            images (B, C, H, W) in [-1, 1], on images of another shape, type or range.
    """

    config_class = TokenizerConfig
    kind = "tokenizer"
    no_decay = ("quantizer",)

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.encoder = Encoder(config)
        self.pre_quant = nn.Conv2d(config.code_channels, config.code_channels, 3, padding=1)
        self.quantizer = MultiScaleQuantizer(
            self.schedule,
            config.vocab_size,
            config.code_channels,
            num_phi=config.num_phi,
            phi_strength=config.phi_strength,
            beta=config.beta,
            lookup=config.lookup,
        )
        self.post_quant = nn.Conv2d(config.code_channels, config.code_channels, 3, padding=1)
        self.decoder = Decoder(config)

    @property
    def vocab_size(self) -> int:
        """V, the codes in the codebook."""
        return self.config.vocab_size

    @property
    def factor(self) -> int:
        """Pixels a side that one feature stands for."""
        return self.config.patch * 2 ** (len(self.config.multipliers) - 1)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that this tokenizer reads and draws, in pixels."""
        h, w = self.schedule.grids[-1]
        return h * self.factor, w * self.factor

    def check_images(self, images: Tensor) -> None:
        """Raises a ValueError unless `images` is float, (B, C, H, W) of our size, in [-1, 1]."""
        check_images(images, self.config.image_channels, *self.image_size)

    def features(self, images: Tensor) -> Tensor:
        """Features before quantization: images (B, C, H, W) in [-1, 1] -> (B, C, h_K, w_K)."""
        self.check_images(images)
        return self.encode_features(images.to(self.pre_quant.weight))

    def encode(self, images: Tensor) -> list[Tensor]:
        """Algorithm 1: images (B, C, H, W) in [-1, 1] -> K LongTensors (B, h_k, w_k)."""
        with torch.no_grad():
            return self.quantizer.encode(self.features(images))

    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Algorithm 2 and the decoder: token pyramid -> images (B, C, H, W), clamped to [-1, 1].

        Args:
            num_scales: draw from the first so many token maps only; None for all.

        Raises:
            ValueError: on maps that do not fit, tokens outside the codebook, or num_scales
                outside [1, K].
        """
        tokens = as_pyramid(tokens, self.schedule, num_scales=num_scales)
        with torch.no_grad():
            return self.decode_features(self.quantizer.decode(tokens)).clamp(-1, 1)

    def encode_features(self, images: Tensor) -> Tensor:
        """The encoder alone: (B, C, H, W) -> (B, C, h_K, w_K)."""
        return self.pre_quant(self.encoder(images)).to(images.dtype)

    def decode_features(self, f_hat: Tensor) -> Tensor:
        """The decoder alone: f_hat (B, C, h_K, w_K) -> images (B, C, H, W), not clamped."""
        weight = self.post_quant.weight
        return self.decoder(self.post_quant(f_hat.to(weight.dtype))).to(weight.dtype)

    def forward(self, images: Tensor) -> Reconstruction:
        """The training pass: images (B, C, H, W) in [-1, 1], straight through to pictures."""
        features = self.features(images)
        quantized = self.quantizer(features)
        drawn = self.decode_features(quantized.f_hat)
        return Reconstruction(drawn, quantized.tokens, quantized.loss, quantized.usage, features)
