"""The network of videos: one measures them, another of its kind is in the perceptual loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.motion import CLASSES, Videos
from ...runtime.pretrained import Pretrained


@dataclass(frozen=True)
class VideoNetworkConfig:
    """Shape of a `VideoNetwork`."""

    num_classes: int = len(CLASSES)
    """Classes to tell apart."""
    width: int = 16
    """Channels of the first layer."""
    features: int = 64
    """Length of a feature vector."""


class VideoNetwork(nn.Module, Pretrained):
    """Names the class in every frame, and the velocity in every three frames in a row.

    Its features, the mean over such threes, hold what is seen and how it moves.
    """

    config_class = VideoNetworkConfig
    kind = "video-network"

    def __init__(self, config: VideoNetworkConfig) -> None:
        super().__init__()
        self.config, w = config, config.width
        self.frame = nn.Sequential(
            nn.Conv2d(1, w, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.where = nn.Linear(4 * w * 16, 2 * w)
        self.classes = nn.Linear(4 * w, config.num_classes)
        self.motion = nn.Conv1d(6 * w, config.features, 3)
        self.velocity = nn.Linear(config.features, 2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Videos (B, 1, F, 32, 32) -> logits (B, F, classes), velocities (B, F - 2, 2), features.

        Features (B, features); velocities in pixels a frame.
        """
        maps = self.frame(frames.transpose(1, 2).flatten(0, 1))  # (B F, 4 w, 4, 4)
        what, where = maps.mean((2, 3)), F.relu(self.where(maps.flatten(1)))
        both = torch.cat([what, where], dim=1).unflatten(0, (len(frames), -1))
        motion = F.relu(self.motion(both.transpose(1, 2))).transpose(1, 2)  # (B, F - 2, features)
        logits = self.classes(what).unflatten(0, (len(frames), -1))
        return logits, self.velocity(motion), motion.mean(1)


def network_loss(model: VideoNetwork, batch: Videos) -> Tensor:
    """Cross-entropy of the class in each frame, and squared error of the velocity.

    A third of the videos are blurred, a third are noisy: drawn videos are no crisper.
    """
    blurred = F.avg_pool3d(batch.frames, (1, 3, 3), stride=1, padding=(0, 1, 1))
    noisy = batch.frames + 0.2 * torch.randn_like(batch.frames)
    kind = torch.randint(3, (len(blurred), 1, 1, 1, 1), device=blurred.device)
    frames = torch.where(kind == 0, batch.frames, torch.where(kind == 1, blurred, noisy))
    logits, velocity, _ = model(frames)
    truth = (batch.path[:, 2:] - batch.path[:, :-2]) / 2
    named = batch.labels[:, None].expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), named.flatten()) + F.mse_loss(velocity, truth)


def perceptual_parts(model: VideoNetwork, drawn: Tensor, true: Tensor) -> Tensor:
    """What `perceptual_distance` reads of videos (B, 1, F, H, W): (B, 2, layers).

    Of each video and layer the mean squared difference, and the mean square of the true one.
    """
    a, b = (x.transpose(1, 2).flatten(0, 1) for x in (drawn, true))
    parts = []
    for layer in model.frame:
        a, b = layer(a), layer(b)
        if isinstance(layer, nn.ReLU):
            both = torch.stack([a - b, b], dim=1).square().flatten(2).mean(2)  # (B F, 2)
            parts.append(both.unflatten(0, (len(true), -1)).mean(1))
    return torch.stack(parts, dim=2)


def perceptual_distance(parts: Tensor) -> Tensor:
    """Squared distance in feature maps, by their own mean square: mean over the three layers.

    As LPIPS (Zhang et al. 2018) without its heads; black regions, which have small features, weigh
    little.
    """
    apart, size = parts.mean(0)
    return (apart / size).mean()
