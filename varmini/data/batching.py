"""Batches of images: endless and resumable for training, once and in order for measuring."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..runtime.machine import to_device
from .pictures import to_float
from .sets import ImageSet, LazyImages


def check_batch_size(batch_size: int, images: int) -> None:
    """Raises a ValueError unless a batch holds at least one image and at most the whole set."""
    if not 1 <= batch_size <= images:
        raise ValueError(f"batch_size {batch_size}: expected 1 to {images}, the images in the set")


def batch_order(
    total: int, batch_size: int, seed: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each batch, without end: its rows, mirrored (1) or not (0), a seed for each crop: (B,).

    An epoch is a permutation of range(total); an incomplete last batch is dropped. All three are
    functions of (seed, epoch), so `start=n` goes on as an uninterrupted run would after n batches.
    """
    check_batch_size(batch_size, total)
    epoch, first = divmod(start, total // batch_size)
    while True:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        rows = torch.randperm(total, generator=generator)
        mirrored, crops = (torch.randint(n, (total,), generator=generator) for n in (2, 2**62))
        for batch in rows.split(batch_size)[first : total // batch_size]:
            yield batch, mirrored[batch], crops[batch]
        epoch, first = epoch + 1, 0


def batches(
    dataset: ImageSet | LazyImages, batch_size: int, *, seed: int, start_step: int = 0,
    flip: bool = False, workers: int = 0, part: slice = slice(None), on_device: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Endless batches: images float32 (B, C, H, W) in [-1, 1] and labels int64 (B,).

    Order, mirroring (`flip`: half of the images), crops and `start_step` are `batch_order`'s.
    `workers` processes decode ahead for lazy sets, and change nothing of what is yielded. Of each
    batch the rows in `part` are read and yielded. `on_device` moves the bytes, and makes the images
    there. ValueError with the first batch, as `check_batch_size`.
    """
    order = batch_order(len(dataset), batch_size, seed, start_step)
    plan = ((r[part].tolist(), crops[part].tolist(), m[part]) for r, m, crops in order)
    for images, labels, mirrored in _loaded(dataset, plan, workers):
        images = to_device(images) if on_device else images
        if flip:
            where = mirrored.bool().to(images.device)[:, None, None, None]
            images = torch.where(where, images.flip(-1), images)
        yield to_float(images), labels


def in_order(
    dataset: ImageSet | LazyImages, batch_size: int, workers: int = 0, rows: range | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, or those of `rows`: (images (B, C, H, W) in [-1, 1], labels (B,)).

    The last part is short. A training crop is a function of the index, as in `dataset[index]`.
    """
    rows = range(len(dataset)) if rows is None else rows
    parts = (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
    plan = ((list(part), [(0, i) for i in part], 0) for part in parts)
    for images, labels, _ in _loaded(dataset, plan, workers):
        yield to_float(images), labels


@dataclass
class _Planned(Dataset):
    """Reads a planned batch: its rows, a seed for each crop, and what goes with it."""

    dataset: ImageSet | LazyImages

    def __getitem__(self, batch: tuple):
        try:
            return *self.dataset.fetch(*batch[:2]), batch[2]
        except ValueError as error:  # as a value: a loader would add its traceback
            return error


def _loaded(dataset: ImageSet | LazyImages, plan: Iterator, workers: int) -> Iterator[tuple]:
    """(images uint8, labels, mirrored) of each planned batch."""
    reader = DataLoader(
        _Planned(dataset),
        batch_size=None,
        sampler=plan,
        num_workers=workers if isinstance(dataset, LazyImages) else 0,
        generator=torch.Generator(),  # it would disturb torch's global one
        worker_init_fn=_ignore_signals,
    )
    try:
        for batch in reader:
            if isinstance(batch, ValueError):
                raise batch
            images, labels, broken, mirrored = batch
            if broken:
                dataset.note_broken(broken)
            yield images, labels, mirrored
    except (ConnectionError, EOFError) as error:  # while a batch was handed over: as torch's others
        raise RuntimeError(f"DataLoader worker died ({error})") from None


def _ignore_signals(worker: int) -> None:
    """What a terminal or a scheduler sends to all processes is meant for the main one."""
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, signal.SIG_IGN)
