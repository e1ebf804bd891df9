"""A small residual classifier: the features for the perceptual loss and for the toy metrics.

ImageNet-sized work uses LPIPS and the Inception network from their own packages; a 32x32 toy needs
neither. This network is trained by the project's own command, `varmini train classifier`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.pretrained import Pretrained


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a `Classifier`."""

    num_classes: int = 10
    """Classes to tell apart."""
    image_channels: int = 3
    """3 for colour, 1 for grey."""
    widths: tuple[int, ...] = (48, 96, 192, 384)
    """Channels of each stage; every stage after the first halves the height and width."""


class ResidualStage(nn.Module):
    """Halves the size and changes the width: two 3x3 convolutions beside an averaged shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(F.avg_pool2d(x, 2)))


class Classifier(nn.Module, Pretrained):
    """A residual network for small images (He et al. 2016, reduced to one block a stage)."""

    config_class = ClassifierConfig
    kind = "classifier"

    def __init__(self, config: ClassifierConfig = ClassifierConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(config.image_channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(ResidualStage(a, b) for a, b in zip(widths, widths[1:]))
        self.head = nn.Linear(widths[-1], config.num_classes)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The output of the stem and of each stage.

        Args:
            images: (B, C, H, W) in [-1, 1].

        Returns:
            One (B, c_i, H / 2^i, W / 2^i) tensor a stage.

        Raises:
            ValueError: when the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected "
                f"(B, {self.config.image_channels}, H, W)"
            )
        maps = [F.relu(self.stem_norm(self.stem(images)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The averaged last map, (B, widths[-1]): the space that image sets are compared in."""
        return self.feature_maps(images)[-1].float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, num_classes) of images (B, C, H, W) in [-1, 1]."""
        return self.head(self.features(images))
