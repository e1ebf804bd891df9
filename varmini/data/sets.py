"""Sets of labelled images: in memory, and decoded when asked for."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .pictures import decode, resize_and_crop, to_float, to_tensor
from .tables import check_labels, encoded

log = logging.getLogger(__name__)
IN_A_ROW = 100  # so many broken pictures are no accident: the disk is gone, or they are no pictures


def checksum(*parts: object) -> str:
    """SHA-256 over arrays (their bytes) and anything else (its text), as hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(f"{part}\0".encode(errors="surrogateescape"))
    return total.hexdigest()


def spread(total: int, limit: int | None) -> np.ndarray:
    """`limit` indices evenly spaced over range(total), so that sorted sets give all classes."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // count


@dataclass(eq=False)
class ImageSet(Dataset):
    """A set held in memory: images uint8 (N, C, H, W), labels int64 (N,) in [0, len(classes))."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        check_labels(self.labels.numpy(), self.classes, self.name)
        self.channels, self.size = self.images.shape[1], self.images.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the pixels, the labels and the class names."""
        return checksum(self.name, self.images.numpy(), self.labels.numpy(), *self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float32 (C, H, W) in [-1, 1], label)."""
        return to_float(self.images[index]), int(self.labels[index])

    def fetch(self, batch: Sequence[int] | Tensor, seeds: Sequence) -> tuple[Tensor, Tensor, list]:
        """As that of `LazyImages`; nothing is broken, and nothing cropped."""
        rows = torch.as_tensor(batch)
        return self.images[rows], self.labels[rows], []


@dataclass(eq=False, repr=False)
class LazyImages(Dataset):
    """Pictures decoded when asked for, with VAR's transform.

    The shorter side is resized to 1.125 x size (Lanczos), then a square of `size` is cropped: at
    random in training, from the centre in test (the official code, its `utils/data.py`). Without
    `size` the first picture's shorter side is taken; without `channels`, 1 if it is grey, else 3.

    A broken picture is logged by name, counted in `broken`, and replaced by the next one that can
    be read, so that what a batch holds stays a function of its rows and seeds.
    """

    cells: Sequence[Any]
    """File names, or a `datasets.Dataset` of one column of encoded pictures."""
    labels: Sequence[int]
    classes: tuple[str, ...]
    name: str
    train: bool
    size: int | None = None
    channels: int | None = None
    limit: InitVar[int | None] = None

    def __post_init__(self, limit: int | None) -> None:
        self.index = spread(len(self.labels), limit)
        self.labels = np.asarray(self.labels)[self.index]
        self.broken: dict[str, None] = {}
        if not (self.size and self.channels):
            picture, _ = self._decoded(0, {})
            self.size = self.size or min(picture.size)
            self.channels = self.channels or len(picture.getbands())

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of what the set holds and how it is cropped: of a folder its files' names, sizes
        and times."""
        view = (self.name, self.train, self.size, self.channels, len(self), self.labels, self.index)
        contents = [getattr(self.cells, "_fingerprint", "")]
        if isinstance(self.cells, list):
            found = ((f, os.stat(f) if os.path.exists(f) else os.lstat(f)) for f in self.cells)
            contents = (f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in found)
        return checksum(type(self).__name__, *view, *self.classes, *contents)

    def _decoded(self, first: int, broken: dict):
        """The picture (PIL) of row `first`, or the next good one, and its label."""
        tries = min(len(self), IN_A_ROW)
        for row in range(first, first + tries):
            index = int(self.index[row % len(self)])
            cell, name = self.cells[index], f"{self.name}, row {index}"
            cell, name = (cell, cell) if isinstance(cell, str) else (encoded(*cell.values()), name)
            try:
                return decode(cell, name, self.channels), int(self.labels[row % len(self)])
            except ValueError as error:
                broken[name] = reason = error
        raise ValueError(f"{self.name}: {tries} pictures in a row cannot be read; {reason}")

    def fetch(
        self, batch: Sequence[int] | Tensor, seeds: Sequence
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Images uint8 (B, C, size, size), labels (B,), and the names of broken pictures.

        A seed alone decides a training crop. ValueError after IN_A_ROW broken pictures.
        """
        images, labels, broken = [], [], {}
        for row, seed in zip(batch, seeds):
            picture, label = self._decoded(int(row), broken)
            seed = seed if isinstance(seed, tuple) else int(seed)
            rng = np.random.default_rng(seed) if self.train else None
            images.append(to_tensor(resize_and_crop(picture, self.size, rng)))
            labels.append(label)
        return torch.stack(images), torch.tensor(labels), list(broken)

    def note_broken(self, names: Sequence[str]) -> None:
        """Logs and counts broken pictures, each once, in `broken`."""
        for name in names:
            if name not in self.broken:
                self.broken[name] = None
                so_far = f"({len(self.broken)} of {len(self)} so far)"
                log.warning("%s cannot be read; the next picture takes its place %s", name, so_far)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float32 (C, size, size) in [-1, 1], label)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        images, labels, broken = self.fetch([index], [(0, index)])
        self.note_broken(broken)
        return to_float(images[0]), int(labels[0])


def undecoded(rows, image: str):
    """An object of `datasets` whose pictures stay encoded: our workers decode, not its reader."""
    import datasets

    if isinstance(rows.features[image], datasets.Image):
        return rows.cast_column(image, datasets.Image(decode=False))
    return rows
