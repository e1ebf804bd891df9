"""Encoder and decoder of the tokenizer: VQGAN's convolutional network, as VAR uses it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import TokenizerConfig


class NormSiLU(nn.GroupNorm):
    """Group normalisation, then SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class ResBlock(nn.Module):
    """x + conv(norm(conv(norm(x)))), with a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = NormSiLU(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = NormSiLU(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm2(self.conv1(self.norm1(x)))) + self.shortcut(x)


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (B, H W, 3 C)
        q, k, v = qkv[:, None].chunk(3, dim=3)  # one head: (B, 1, H W, C)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + self.proj(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Halves the size by a strided convolution, padded right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the size by repeating pixels, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, config: TokenizerConfig) -> nn.Sequential:
    groups = config.norm_groups
    between = [SpatialAttention(channels, groups)] if config.attention else []
    first, last = (ResBlock(channels, channels, groups) for _ in range(2))
    return nn.Sequential(first, *between, last)


class Encoder(nn.Module):
    """Images (B, C, H, W) -> features (B, code_channels, h_K, w_K): VQGAN's encoder."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        self.fold = nn.PixelUnshuffle(config.patch)
        self.conv_in = nn.Conv2d(config.image_channels * config.patch**2, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        channels = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(channels, width, config.norm_groups))
                channels = width
                if config.attention and level == len(widths) - 1:
                    layers.append(SpatialAttention(width, config.norm_groups))
            if level < len(widths) - 1:
                layers.append(Downsample(width))
        self.levels = nn.Sequential(*layers)
        self.middle = _middle(channels, config)
        self.norm_out = NormSiLU(channels, config.norm_groups)
        self.conv_out = nn.Conv2d(channels, config.code_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.levels(self.conv_in(self.fold(images)))  # (B, widths[-1], h_K, w_K)
        return self.conv_out(self.norm_out(self.middle(h)))


class Decoder(nn.Module):
    """Features (B, code_channels, h_K, w_K) -> images (B, C, H, W): the encoder's mirror image."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        channels = widths[-1]
        self.conv_in = nn.Conv2d(config.code_channels, channels, 3, padding=1)
        self.middle = _middle(channels, config)
        layers: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResBlock(channels, widths[level], config.norm_groups))
                channels = widths[level]
                if config.attention and level == len(widths) - 1:
                    layers.append(SpatialAttention(channels, config.norm_groups))
            if level > 0:
                layers.append(Upsample(channels))
        self.levels = nn.Sequential(*layers)
        self.norm_out = NormSiLU(channels, config.norm_groups)
        self.conv_out = nn.Conv2d(channels, config.image_channels * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch) if config.patch > 1 else nn.Identity()

    def forward(self, f_hat: Tensor) -> Tensor:
        h = self.levels(self.middle(self.conv_in(f_hat)))  # (B, widths[0], H / patch, W / patch)
        return self.unfold(self.conv_out(self.norm_out(h)))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight against which the adversarial loss is balanced (VQGAN, equation 7)."""
        return self.conv_out.weight
