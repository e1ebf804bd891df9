"""Batches of images: endless and resumable for training, once and in order for measuring."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..runtime.machine import to_device
from .lazy import LazyImages
from .sources import to_float
from .stream import StreamedImages


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
    part: slice = slice(None),
    on_device: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: images float32 (B, C, H, W) in [-1, 1] and labels int64 (B,).

    Each epoch is a new order without repetition; an incomplete last batch is dropped. Order,
    mirroring (`flip`: half of the images) and crops are functions of (seed, epoch) only, so
    `start_step=n` goes on exactly as an uninterrupted run would after n batches. `workers`
    processes decode ahead for lazy sets; they do not change what is yielded. Of each batch the rows
    in `part` are read and yielded. `on_device` moves the bytes, and makes the images there.
    """
    check_batch_size(batch_size, len(dataset))
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed {seed}, start_step {start_step}: expected at least 0")
    if isinstance(dataset, StreamedImages):
        plan = dataset.plan(batch_size, seed, start_step)
    else:
        plan = _plan(len(dataset), batch_size, seed, start_step)
    plan = (tuple(column[part] for column in columns) for columns in plan)
    if not isinstance(dataset, LazyImages):
        return _memory_batches(dataset, plan, flip, on_device)
    stream = _lazy_batches(dataset, plan, flip, workers, on_device)
    return _reported(dataset, stream, start_step, len(dataset) // batch_size)


def _reported(dataset: LazyImages, stream, start_step: int, per_epoch: int):
    """Passes batches on; says at the end of each epoch how many pictures were broken."""
    for done, batch in enumerate(stream, start_step + 1):
        yield batch
        if done % per_epoch == 0:
            dataset.report_broken()


def _plan(total: int, batch_size: int, seed: int, start: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Per batch: indices, crop seeds, mirrored or not."""
    epoch, first = divmod(start, total // batch_size)
    while True:
        rng = np.random.default_rng((seed, epoch))
        columns = rng.permutation(total), rng.integers(2**62, size=total), rng.random(total) < 0.5
        for step in range(first, total // batch_size):
            yield tuple(c[step * batch_size : (step + 1) * batch_size] for c in columns)
        epoch, first = epoch + 1, 0


def _finish(images: Tensor, mirrored: np.ndarray, flip: bool, on_device: bool) -> Tensor:
    images = to_device(images) if on_device else images
    if flip:
        where = torch.as_tensor(mirrored)[:, None, None, None]
        where = to_device(where) if on_device else where
        images = torch.where(where, images.flip(-1), images)
    return to_float(images)


def _memory_batches(
    dataset: Dataset, plan, flip: bool, on_device: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    for indices, _, mirrored in plan:
        index = torch.from_numpy(indices)
        yield _finish(dataset.images[index], mirrored, flip, on_device), dataset.labels[index]


def in_order(
    dataset: Dataset, batch_size: int, workers: int = 0, rows: range | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once: (images (B, C, H, W) in [-1, 1], labels (B,)); the last part is short.

    `rows` takes only those images, a stretch of the set. The crop of a lazy training set is a
    function of the image's index, as in `dataset[index]`.
    """
    rows = range(len(dataset)) if rows is None else rows
    if not isinstance(dataset, LazyImages):
        for start in range(rows.start, rows.stop, batch_size):
            part = slice(start, min(start + batch_size, rows.stop))
            yield to_float(dataset.images[part]), dataset.labels[part]
    else:
        plan = dataset.plan_in_order(batch_size, rows)
        yield from _lazy_batches(dataset, plan, False, workers, False)
        dataset.report_broken()


class _Planned(Dataset):
    """Reads the items of one planned batch; errors travel as values to stay one line long."""

    def __init__(self, dataset: LazyImages) -> None:
        self.dataset = dataset

    def __getitem__(self, batch: tuple[np.ndarray, ...]):
        indices, seeds, mirrored = batch
        try:
            items = self.dataset.fetch_all(indices, seeds)
        except ValueError as error:
            return error
        images, labels, passed = zip(*items, strict=True)
        return torch.stack(images), torch.tensor(labels), mirrored, sum(passed, [])


def _lazy_batches(dataset: LazyImages, plan, flip: bool, workers: int, on_device: bool):
    # its own generator: a loader would otherwise draw from, and so disturb, torch's global one
    loader = DataLoader(
        _Planned(dataset),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        generator=torch.Generator(),
        worker_init_fn=_deaf,
    )
    for result in _watched(iter(loader), workers):
        if isinstance(result, ValueError):
            raise result
        images, labels, mirrored, passed = result
        dataset.note_broken(passed)
        yield _finish(images, mirrored, flip, on_device), labels


def _deaf(number: int) -> None:
    """In a worker: what a terminal or a scheduler sends to all is meant for the main process."""
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, signal.SIG_IGN)


def _watched(loader: Iterator, workers: int) -> Iterator:
    """What a loader gives; the death of one of its processes becomes one line."""
    while True:
        try:
            result = next(loader, None)
        except (RuntimeError, EOFError, OSError) as error:  # whichever notices first
            if not workers:
                raise
            if not isinstance(error, RuntimeError):  # torch will say so too, wherever we are then
                with contextlib.suppress(RuntimeError):
                    for process in multiprocessing.active_children():
                        process.join(1)
            raise ValueError(
                f"one of the {workers} processes that decode pictures died, perhaps for want of "
                f"memory: lower --workers ({str(error).partition(chr(10))[0]})"
            ) from None
        if result is None:
            return
        yield result
