"""Images to token pyramids and back: a convolutional encoder and decoder around the quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ..fast.layers import Conv
from ..runtime.precision import forget, ready
from ..runtime.pretrained import Pretrained
from .autoencoder import Decoder, Encoder, chain, in_pieces
from .quantizer import MultiScaleQuantizer
from .scales import ScaleSchedule, Size

MAP_BYTES = 1 << 22
"""Most memory of the maps that go through a layer together, where a CPU encodes or decodes in bf16
without gradients."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Shape of a `MultiScaleVQVAE`."""

    sizes: tuple[Size, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sizes of the token maps, coarse to fine; the last is the size of the feature map."""
    image_channels: int = 3
    """3 for colour, 1 for grey."""
    vocab_size: int = 4096
    """Codes in the codebook."""
    code_channels: int = 32
    """Length of a code."""
    width: int = 160
    """Channels of the first level, a multiple of `norm_groups`."""
    norm_groups: int = 32
    """Groups of the group normalisation; few channels a group would erase their brightness."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each level in units of `width`; every level after the first halves the size."""
    num_res_blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: bool = True
    """Self-attention at the smallest level, as in the paper's network."""
    patch: int = 1
    """Pixels a side that are folded into channels first; 2 makes a toy four times cheaper."""
    num_phi: int = 4
    """Phi convolutions, shared over neighbouring scales."""
    phi_strength: float = 0.5
    """Share of the convolution in phi."""
    beta: float = 0.25
    """Weight of the commitment loss."""
    lookup: str = "euclidean"
    """Nearest neighbour by "euclidean" or "cosine" distance."""


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

    Args:
        config: the shape of the network.

    Raises:
        ValueError: when the configuration contradicts itself.
    """

    config_class = TokenizerConfig
    kind = "tokenizer"
    no_decay = ("quantizer",)

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        for name in ("image_channels", "code_channels", "num_res_blocks", "patch", "norm_groups"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}, expected at least 1")
        if not config.multipliers or min(config.multipliers) < 1:
            raise ValueError(
                f"multipliers are {config.multipliers}, expected at least one, all >= 1"
            )
        if config.width < 1 or config.width % config.norm_groups:
            raise ValueError(
                f"width is {config.width}, expected a multiple of norm_groups {config.norm_groups}"
            )
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.encoder = Encoder(config)
        self.pre_quant = Conv(config.code_channels, config.code_channels, 3, padding=1)
        self.quantizer = MultiScaleQuantizer(
            self.schedule,
            config.vocab_size,
            config.code_channels,
            num_phi=config.num_phi,
            phi_strength=config.phi_strength,
            beta=config.beta,
            lookup=config.lookup,
        )
        self.post_quant = Conv(config.code_channels, config.code_channels, 3, padding=1)
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
        """Raises a ValueError unless `images` is float, (B, C, H, W) of our size, in [-1, 1].

        On a GPU the range is looked at in evaluation mode only: reading values stalls a GPU.
        """
        own = (self.config.image_channels, *self.image_size)
        expected = f"expected a tensor (B, {own[0]}, {own[1]}, {own[2]}) for this tokenizer"
        if not isinstance(images, Tensor):
            raise ValueError(f"images are a {type(images).__name__}, {expected}")
        if tuple(images.shape[1:]) != own:
            raise ValueError(f"images have shape {tuple(images.shape)}, {expected}")
        if not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype}, expected floats in [-1, 1]: use varmini.data.to_float"
            )
        if images.numel() and not (self.training and images.device.type != "cpu"):
            low, high = images.min().item(), images.max().item()
            if not (low >= -1.01 and high <= 1.01):
                raise ValueError(
                    f"images span [{low:.3g}, {high:.3g}], expected [-1, 1]: divide "
                    f"bytes by 127.5 and subtract 1"
                )

    def features(self, images: Tensor) -> Tensor:
        """Features before quantization: images (B, C, H, W) in [-1, 1] -> (B, C, h_K, w_K).

        Raises:
            ValueError: on images of another shape, type or range.
        """
        self.check_images(images)
        images = images.to(self.pre_quant.weight)
        return self._through(images, self.encoder, self.pre_quant)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Algorithm 1: images (B, C, H, W) in [-1, 1] -> K LongTensors (B, h_k, w_k).

        Raises:
            ValueError: on images of another shape, type or range.
        """
        with torch.no_grad():
            return self.quantizer.encode(self.features(images))

    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Algorithm 2 and the decoder: token pyramid -> images (B, C, H, W), clamped to [-1, 1].

        Args:
            num_scales: draw from the first so many token maps only; None for all.

        Raises:
            ValueError: on maps that do not fit, tokens outside the codebook, or num_scales not in
                [1, K].
        """
        if num_scales is None:
            self.schedule.check(tokens)
        with torch.no_grad():
            return self.decode_features(self.quantizer.decode(tokens, num_scales)).clamp(-1, 1)

    def decode_features(self, f_hat: Tensor) -> Tensor:
        """The decoder alone: f_hat (B, C, h_K, w_K) -> images (B, C, H, W), not clamped."""
        return self._through(f_hat, self.post_quant, self.decoder)

    def _through(self, x: Tensor, *layers: nn.Module) -> Tensor:
        """`layers` one after another, under bf16 autocast without gradients in their quick form."""
        quick = [ready(layer) for layer in layers]  # weights cast and laid out once, not every call
        if x.device.type != "cpu" or any(q is own for q, own in zip(quick, layers)):
            return chain(quick, _fast_layout(x)).float()
        h, w = (side // self.config.patch for side in self.image_size)
        # So many images are on their way at a time: between levels the maps of all are joined.
        group = max(16, 4 * MAP_BYTES // (2 * self.config.width * h * w))
        parts = [in_pieces(quick, _fast_layout(part), MAP_BYTES) for part in x.split(group)]
        return torch.cat([part.float() for part in parts])

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; training drops the copies that `ready` made."""
        if mode:
            forget(self)
        return super().train(mode)

    def forward(self, images: Tensor) -> Reconstruction:
        """The training pass, straight-through: images (B, C, H, W) in [-1, 1] -> `Reconstruction`.

        Raises:
            ValueError: on images of another shape, type or range.
        """
        features = self.features(images)
        quantized = self.quantizer(features)
        drawn = self.decode_features(quantized.f_hat)
        return Reconstruction(drawn, quantized.tokens, quantized.loss, quantized.usage, features)


def _fast_layout(x: Tensor) -> Tensor:
    """Channels-last, but in float32 on a CPU, where plain is faster and rounds as officially."""
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)
