"""Batches of images: endless and resumable for training, once and in order for measuring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .lazy import LazyImages
from .sources import to_float


def check_batch_size(batch_size: int, images: int) -> None:
    """Raises a ValueError unless a batch holds at least one image and at most the whole set."""
    if not 1 <= batch_size <= images:
        raise ValueError(f"batch_size {batch_size}: expected 1 to {images}, the images in the set")


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    flip: bool = False,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: images float32 (B, C, H, W) in [-1, 1] and labels int64 (B,).

    Each epoch is a new order without repetition; an incomplete last batch is dropped. Order,
    mirroring (`flip`: half of the images) and crops are functions of (seed, epoch) only, so
    `start_step=n` goes on exactly as an uninterrupted run would after n batches. `workers`
    processes decode ahead for lazy sets; they do not change what is yielded.
    """
    check_batch_size(batch_size, len(dataset))
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed {seed}, start_step {start_step}: expected at least 0")
    if not isinstance(dataset, LazyImages):
        return _memory_batches(dataset, _plan(len(dataset), batch_size, seed, start_step), flip)
    return _lazy_batches(dataset, _plan(len(dataset), batch_size, seed, start_step), flip, workers)


def _plan(total: int, batch_size: int, seed: int, start: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Per batch: indices, crop seeds, mirrored or not."""
    epoch, first = divmod(start, total // batch_size)
    while True:
        rng = np.random.default_rng((seed, epoch))
        columns = rng.permutation(total), rng.integers(2**62, size=total), rng.random(total) < 0.5
        for step in range(first, total // batch_size):
            yield tuple(c[step * batch_size : (step + 1) * batch_size] for c in columns)
        epoch, first = epoch + 1, 0


def _finish(images: Tensor, mirrored: np.ndarray, flip: bool) -> Tensor:
    if flip:
        where = torch.as_tensor(mirrored)[:, None, None, None]
        images = torch.where(where, images.flip(-1), images)
    return to_float(images)


def _memory_batches(dataset: Dataset, plan, flip: bool) -> Iterator[tuple[Tensor, Tensor]]:
    for indices, _, mirrored in plan:
        index = torch.from_numpy(indices)
        yield _finish(dataset.images[index], mirrored, flip), dataset.labels[index]


def in_order(
    dataset: Dataset, batch_size: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once: (images (B, C, H, W) in [-1, 1], labels (B,)); the last part is short."""
    if not isinstance(dataset, LazyImages):
        for start in range(0, len(dataset), batch_size):
            rows = slice(start, start + batch_size)
            yield to_float(dataset.images[rows]), dataset.labels[rows]
    else:
        loader = torch.Generator()  # a loader would otherwise disturb torch's global one
        yield from DataLoader(dataset, batch_size, num_workers=workers, generator=loader)


class _Planned(Dataset):
    """Reads the items of one planned batch; errors travel as values to stay one line long."""

    def __init__(self, dataset: LazyImages) -> None:
        self.dataset = dataset

    def __getitem__(self, batch: tuple[np.ndarray, ...]):
        indices, seeds, mirrored = batch
        try:
            items = [
                self.dataset.fetch(int(i), int(s)) for i, s in zip(indices, seeds, strict=True)
            ]
        except ValueError as error:
            return error
        images, labels, passed = zip(*items, strict=True)
        return torch.stack(images), torch.tensor(labels), mirrored, sum(passed, [])


def _lazy_batches(dataset: LazyImages, plan, flip: bool, workers: int):
    # its own generator: a loader would otherwise draw from, and so disturb, torch's global one
    loader = DataLoader(
        _Planned(dataset),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        generator=torch.Generator(),
    )
    for result in loader:
        if isinstance(result, ValueError):
            raise result
        images, labels, mirrored, passed = result
        dataset.note_broken(passed)
        yield _finish(images, mirrored, flip), labels
