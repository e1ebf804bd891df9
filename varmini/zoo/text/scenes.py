"""Scenes: two Fashion-MNIST garments side by side, 32 x 64 pixels, each with a caption.

Garments whose classes differ by 3 or 7 (modulo 10) never stand side by side in training, in neither
order: 20 of the 100 pairs are held out, and every class is in four of them, twice on each side. So
a model knows every garment on every side, but has to put a held-out pair together itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .grammar import captions, encode

CLASSES = 10
PAIRS = tuple((left, right) for left in range(CLASSES) for right in range(CLASSES))
HELD_OUT = tuple(pair for pair in PAIRS if (pair[0] - pair[1]) % CLASSES in (3, 7))
"""(left, right), never trained on."""
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)
"""(left, right), trained on."""


def scenes(
    labels: Tensor,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    pairs: tuple[tuple[int, int], ...] = SEEN,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of scenes: which two images, and a caption.

    All pairs are alike likely, then all images of a class, then all captions of the pair. A batch
    is a function of (seed, step), so `start_step=n` goes on as after n batches.

    Args:
        labels: (N,), the classes of the images; every class that `pairs` names occurs.

    Yields:
        Rows of the images, LongTensor (B, 2), left and right; captions, LongTensor (B, T).
    """
    images = [(labels == c).nonzero()[:, 0] for c in range(CLASSES)]
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start_step)
        numbers = torch.rand(batch_size, 4, generator=generator, dtype=torch.float64).tolist()
        rows, texts = [], []
        for pair, left, right, form in numbers:
            pair = pairs[int(pair * len(pairs))]
            rows.append([int(of[int(u * len(of))]) for u, of in
                         zip((left, right), (images[c] for c in pair))])  # fmt: skip
            texts.append(captions(*pair)[int(form * len(captions(*pair)))])
        yield torch.tensor(rows), encode(texts)
        start_step += 1


def side_by_side(images: Tensor, rows: Tensor) -> Tensor:
    """Images, features or maps (N, ..., h, w) and rows (B, 2) -> scenes (B, ..., h, 2 w)."""
    return torch.cat([images[rows[:, 0]], images[rows[:, 1]]], dim=-1)


def halves(scenes: Tensor) -> Tensor:
    """Scenes (B, ..., h, 2 w) -> (2 B, ..., h, w): all left halves, then all right ones."""
    return torch.cat(scenes.chunk(2, dim=-1))
