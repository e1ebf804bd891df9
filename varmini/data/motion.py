"""Moving garments: short videos made on the fly from Fashion-MNIST, with the path that is true.

A garment of 14 pixels flies over a black square at constant velocity and bounces off its borders.
Nothing is stored: a video is a function of the seed, and so is its path.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .loading import load_images
from .pictures import to_float

GARMENT = 14
"""Side of a garment in pixels: Fashion-MNIST's 28, halved."""
FRAMES = 13
"""Frames of a video: a first one, and twelve that follow it."""
CLASSES = ("Trouser", "Pullover", "Dress", "Sneaker", "Bag")
"""Garments that stay distinct at 14 pixels; their labels are 0 to 4 here."""
SPEED = (0.75, 2.0)
"""Pixels a frame."""


class Videos(NamedTuple):
    """A batch of videos and what is true of them; of several garments each has its own truth."""

    frames: Tensor
    """(B, 1, F, H, W) in [-1, 1], black is -1."""
    labels: Tensor
    """(B,) in [0, 5), by `CLASSES`; (B, O) of O garments."""
    path: Tensor
    """(B, F, 2): centre of mass of the garment, row and column in pixels, frame by frame; or
    (B, O, F, 2)."""
    velocity: Tensor
    """(B, 2): pixels a frame, downwards and to the right, before the first bounce; or (B, O, 2)."""


class MovingGarments:
    """Makes videos of the garments of one split; those of "test" are in no training.

    Args:
        split: "train" or "test" of `data`.
        frames, side: F, and H = W.
        objects: O, garments in a video; where they meet, the brighter pixel is seen.
        data: a Fashion-MNIST: "fashion-subset" (embedded) or "fashion".

    Raises:
        ValueError: on a size that holds no garment, or data without these classes.
    """

    def __init__(
        self, split: str = "train", *, frames: int = FRAMES, side: int = 32, objects: int = 1,
        data: str = "fashion-subset",
    ) -> None:  # fmt: skip
        if min(frames, objects) < 1 or side <= GARMENT:
            raise ValueError(f"frames is {frames}, objects is {objects} and side is {side}, "
                             f"expected at least 1 frame and garment, and more than {GARMENT} "
                             f"pixels a side")  # fmt: skip
        found = load_images(data, split)
        if missing := set(CLASSES) - set(found.classes):
            raise ValueError(f"{data} has no {sorted(missing)}, expected Fashion-MNIST: give "
                             f"'fashion-subset' or 'fashion'")  # fmt: skip
        number = torch.tensor([CLASSES.index(name) if name in CLASSES else -1
                               for name in found.classes])  # fmt: skip
        labels = number[found.labels]
        pixels = to_float(found.images[labels >= 0][:, :, 2:30, 2:30])  # without the padding
        self.garments, self.labels = F.avg_pool2d(pixels, 2)[:, 0], labels[labels >= 0]
        self.frames, self.side, self.mirror = frames, side, split == "train"
        self.objects = objects

    def __len__(self) -> int:
        """How many garments there are; of videos there is no end."""
        return len(self.labels)

    def batch(self, count: int, seed: int, step: int = 0) -> Videos:
        """`count` videos, the same ones for the same numbers. In training half are mirrored."""
        if self.objects == 1:
            return self.of_one(count, seed, step)
        each = self.of_one(count * self.objects, seed, step)
        frames, *truth = (part.unflatten(0, (count, self.objects)) for part in each)
        return Videos(frames.amax(1), *truth)

    def of_one(self, count: int, seed: int, step: int) -> Videos:
        """`batch` of videos of one garment each."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        chosen = torch.randint(len(self), (count,), generator=generator)
        start, turn, speed, mirrored = torch.rand(4, count, 2, generator=generator).unbind()
        room = float(self.side - GARMENT)
        angle, speed = 2 * torch.pi * turn[:, 0], SPEED[0] + speed[:, :1] * (SPEED[1] - SPEED[0])
        velocity = speed * torch.stack([angle.sin(), angle.cos()], dim=1)
        free = room * start[:, None] + velocity[:, None] * torch.arange(self.frames)[:, None]
        corner = (room - (free % (2 * room) - room).abs()).round().long()  # bounced: (B, F, 2)
        garments = self.garments[chosen]
        if self.mirror:
            garments = torch.where(mirrored[:, :1, None] < 0.5, garments, garments.flip(2))
        return Videos(
            self.render(garments, corner), self.labels[chosen],
            corner + centroid(garments)[:, None], velocity,
        )  # fmt: skip

    def render(self, garments: Tensor, corner: Tensor) -> Tensor:
        """Garments (B, 14, 14), upper left corners (B, F, 2) -> frames (B, 1, F, H, W)."""
        count, frames = corner.shape[:2]
        canvas = garments.new_full((count, frames, self.side, self.side), -1.0)
        rows, columns = (corner[..., None] + torch.arange(GARMENT)).unbind(2)  # each (B, F, 14)
        which, when = torch.arange(count)[:, None, None, None], torch.arange(frames)[:, None, None]
        canvas[which, when, rows[..., None], columns[..., None, :]] = garments[:, None]
        return canvas[:, None]


def centroid(frames: Tensor, floor: float = 0.2) -> Tensor:
    """Centre of mass of what is bright: frames (..., H, W) in [-1, 1] -> (..., 2) in pixels.

    floor: brightness, of 2, that counts as black, so that a faint haze has no weight. An empty
    frame has its middle.
    """
    light = (frames + 1 - floor).clamp(min=0) + 1e-6
    mass = light.sum((-2, -1))
    rows, columns = (torch.arange(n, dtype=frames.dtype) for n in frames.shape[-2:])
    return torch.stack([(light.sum(-1) * rows).sum(-1) / mass,
                        (light.sum(-2) * columns).sum(-1) / mass], dim=-1)  # fmt: skip
