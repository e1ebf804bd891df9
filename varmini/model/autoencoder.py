"""Encoder and decoder of the tokenizer: VQGAN's convolutional network, as VAR uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fast.layers import Conv, Doubling

if TYPE_CHECKING:
    from .tokenizer import TokenizerConfig


class NormSiLU(nn.GroupNorm):
    """Group normalisation, then SiLU."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] * x.shape[3] < 1024 and not x.is_contiguous():
            # On small maps a CPU's group_norm is slow in channels-last bf16 (forms.csv); on large
            # ones, changing the order would cost more than the norm.
            h = super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        else:
            h = super().forward(x)
        return F.silu(h, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """x + conv(norm(conv(norm(x)))), with a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = NormSiLU(inputs, groups)
        self.conv1 = Conv(inputs, outputs, 3, padding=1)
        self.norm2 = NormSiLU(outputs, groups)
        self.conv2 = Conv(outputs, outputs, 3, padding=1)
        self.shortcut = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm2(self.conv1(self.norm1(x))), plus=self.shortcut(x))


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions of a map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.qkv = Conv(channels, 3 * channels, 1)
        self.proj = Conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # (B, HW, C)
        if q.device.type == "cpu" and q.dtype is torch.bfloat16:
            # Plain products, as the fused kernel's bf16 backward is slow here (see `attention`).
            mixed = torch.softmax(q * q.shape[2] ** -0.5 @ k.mT, dim=2) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).unflatten(2, x.shape[2:]), plus=x)


class Downsample(nn.Module):
    """Halves the size by a strided convolution, padded right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def chain(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Sends x through one part after another."""
    for part in parts:
        x = part(x)
    return x


def in_pieces(networks: Iterable[nn.Module], x: Tensor, most: int) -> Tensor:
    """`chain`, so few images at a time that the widest map of a level takes `most` bytes in bf16.

    Small maps then go through with many images, which fills a CPU's cores, and large ones with few,
    which stay in its cache.
    """
    levels: list[list[nn.Module]] = [[]]
    for layer in _layers(networks):  # cut where the size of a map changes
        if isinstance(layer, Doubling):
            levels.append([])
        levels[-1].append(layer)
        if isinstance(layer, Downsample):
            levels.append([])
    for level in levels:
        few = max(1, most // (2 * _widest(level, x))) if len(x) > 1 else 1
        parts = [chain(level, part) for part in x.split(few)]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
    return x


def _layers(networks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for network in networks:
        if isinstance(network, (Encoder, Decoder)):
            yield from _layers(network.parts())
        elif type(network) is nn.Sequential:
            yield from network
        else:
            yield network


def _widest(level: list[nn.Module], x: Tensor) -> int:
    """Numbers of an image in the widest map of a level that x enters."""
    area = x.shape[2] * x.shape[3]
    if isinstance(level[0], Doubling):
        area *= 4
    if isinstance(level[0], nn.PixelUnshuffle):
        area //= level[0].downscale_factor ** 2
    convs = (m for layer in level for m in layer.modules() if isinstance(m, Conv))
    return area * max(conv.out_channels for conv in convs)


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
        self.conv_in = Conv(config.image_channels * config.patch**2, widths[0], 3, padding=1)
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
        self.conv_out = Conv(channels, config.code_channels, 3, padding=1)

    def parts(self) -> list[nn.Module]:
        """What an image goes through, one after another."""
        first = [self.fold, self.conv_in, self.levels]
        return [*first, self.middle, self.norm_out, self.conv_out]

    def forward(self, images: Tensor) -> Tensor:
        return chain(self.parts(), images)


class Decoder(nn.Module):
    """Features (B, code_channels, h_K, w_K) -> images (B, C, H, W): the encoder's mirror image."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        channels = widths[-1]
        self.conv_in = Conv(config.code_channels, channels, 3, padding=1)
        self.middle = _middle(channels, config)
        layers: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResBlock(channels, widths[level], config.norm_groups))
                channels = widths[level]
                if config.attention and level == len(widths) - 1:
                    layers.append(SpatialAttention(channels, config.norm_groups))
            if level > 0:
                layers.append(Doubling(channels))
        self.levels = nn.Sequential(*layers)
        self.norm_out = NormSiLU(channels, config.norm_groups)
        self.conv_out = Conv(channels, config.image_channels * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch) if config.patch > 1 else nn.Identity()

    def parts(self) -> list[nn.Module]:
        """What features go through, one after another."""
        first = [self.conv_in, self.middle, self.levels]
        return [*first, self.norm_out, self.conv_out, self.unfold]

    def forward(self, f_hat: Tensor) -> Tensor:
        return chain(self.parts(), f_hat)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight against which the adversarial loss is balanced (VQGAN, equation 7)."""
        return self.conv_out.weight
