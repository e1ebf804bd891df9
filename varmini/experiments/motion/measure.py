"""Draws videos, and measures them: Frechet distance, class kept, motion against the true path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.motion import MovingGarments, Videos, centroid
from ...evaluation.metrics import frechet_distance
from ...runtime.machine import device
from ...zoo.tokenizers.causal_video import CausalVideoTokenizer
from .bed import METHODS, load
from .network import VideoNetwork

TASKS = {"generate": 0, "image to video": 1, "continue": 5}
"""Frames that are given."""
DRAWING: dict[str, dict[str, Any]] = {
    "infinity-star": {"cfg": 2.0, "tau": 1.0},
    "magvit": {"cfg": 2.0, "rounds": 24, "temperature": 10.0, "tau": 1.0},
}
"""Options of `draw`: of those tried, the ones with the least Frechet distance of videos drawn from
a class alone, on videos apart from those measured (results/motion/choices.csv)."""
BATCH = 64


def test_videos(count: int, seed: int) -> Videos:
    """`count` videos of garments that no training saw."""
    garments = MovingGarments("test")
    parts = [garments.batch(min(BATCH, count - i), seed, i) for i in range(0, count, BATCH)]
    return Videos(*(torch.cat(part) for part in zip(*parts)))


def pair(method: str, seed: int, out: Path) -> tuple[nn.Module, CausalVideoTokenizer]:
    """A trained generator, and its tokenizer with the decoder that was trained on."""
    cls, name = METHODS[method]
    return load(cls, out / f"{method}-s{seed}"), load(CausalVideoTokenizer,
                                                      out / f"decoder-{name}")  # fmt: skip


@torch.no_grad()
def drawn(
    model: nn.Module, tok: CausalVideoTokenizer, truth: Videos, given: int, seed: int,
    **options: Any,
) -> Tensor:  # fmt: skip
    """Videos of these classes, after the first `given` frames (0, 1, 5, 9) of the true ones."""
    parts = []
    for i in range(0, len(truth.labels), BATCH):
        frames, labels = truth.frames[i : i + BATCH], truth.labels[i : i + BATCH]
        known = tok.encode(frames[:, :, :given].to(device())) if given else ()
        tokens = model.draw(labels, seed=seed + i, known=known, **options)
        parts.append(tok.decode(tokens).cpu())
    return torch.cat(parts)


@torch.no_grad()
def figures(
    videos: Tensor, truth: Videos, given: int, network: VideoNetwork, real: Tensor
) -> dict[str, float]:
    """What is measured of videos (B, 1, F, 32, 32).

    Args:
        given: how many frames were given; class and motion are those of the others.
        real: features (N, D) of other real videos.

    Returns:
        frechet: squared Frechet distance of the network's features to `real`.
        kept: share of frames in which the network names the class asked for.
        steady: share of frames with the class that it names in the frame before.
        speed: mean way of the centre of mass, in pixels a frame.
        With given frames also, as mean distances to the true path in pixels: error, and those of a
        garment that stays where it is in the last given frame (frozen) or in the first of all.
        kept_se, error_se: standard errors over videos.
    """
    parts = [network(part.to(device())) for part in videos.split(BATCH)]
    logits, _, features = (torch.cat(part).cpu() for part in zip(*parts))
    named, path = logits.argmax(2), centroid(videos[:, 0])
    kept = (named[:, given:] == truth.labels[:, None]).float().mean(1)  # a value a video
    found = {
        "frechet": frechet_distance(features, real),
        "kept": kept.mean().item(),
        "kept_se": (kept.std() / len(kept) ** 0.5).item(),
        "steady": (named[:, 1:] == named[:, :-1]).float().mean().item(),
        "speed": path.diff(dim=1).norm(dim=2).mean().item(),
    }
    if given:
        true = centroid(truth.frames[:, 0])  # as the drawn one is found

        def off(path: Tensor) -> Tensor:
            return (path - true[:, given:]).norm(dim=2).mean(1)

        error = off(path[:, given:])
        found |= {"error": error.mean().item(), "error_se": (error.std() / len(kept) ** 0.5).item(),
                  "frozen": off(true[:, given - 1 : given]).mean().item(),
                  "frozen_first": off(true[:, :1]).mean().item()}  # fmt: skip
    return found


@torch.no_grad()
def features_of(videos: Tensor, network: VideoNetwork) -> Tensor:
    """Features (B, D) of videos."""
    return torch.cat([network(part.to(device()))[2].cpu() for part in videos.split(BATCH)])
