"""The independent evaluator: a network that takes part in no training, only in measuring.

It differs from `training.classifier`, whose features the tokenizers are trained with, in
architecture, seed, augmentation and data order. `scripts/evidence/train_evaluator.py` trains it on
all images of a data set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.pretrained import Pretrained


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a `ResNet`."""

    image_channels: int = 1
    """3 for colour, 1 for grey."""
    num_classes: int = 10
    """Classes to tell apart."""
    widths: tuple[int, ...] = (32, 80, 160)
    """Channels of the levels; all but the first begin with a halving."""
    blocks: int = 1
    """Residual blocks a level."""
    stem: int = 2
    """Stride of the first convolution: 2 halves the side at once."""


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))): pre-activation (He et al. 2016,
    arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class ResNet(nn.Module, Pretrained):
    """Images (B, C, H, W) in [-1, 1] -> logits (B, num_classes)."""

    config_class = ResNetConfig
    kind = "evaluator"

    def __init__(self, config: ResNetConfig = ResNetConfig()) -> None:
        super().__init__()
        self.config = config
        first, *others = config.widths
        stem = nn.Conv2d(config.image_channels, first, config.stem + 2, config.stem, 1)
        layers: list[nn.Module] = [stem]
        layers += [Residual(first) for _ in range(config.blocks)]
        for before, width in zip(config.widths, others):
            layers.append(nn.Conv2d(before, width, 3, 2, 1, bias=False))
            layers += [Residual(width) for _ in range(config.blocks)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(config.widths[-1]), nn.SiLU())
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The last map, averaged: (B, widths[-1]), the space that image sets are compared in."""
        return self.layers(images).float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
