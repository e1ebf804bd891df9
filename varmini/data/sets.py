"""Sets of labelled images: in memory, and decoded when asked for."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .pictures import decode, resize_and_crop, to_float, to_tensor
from .sources import check_labels, encoded

log = logging.getLogger(__name__)
IN_A_ROW = 100  # so many broken pictures are no accident: the disk is gone, or they are no pictures


def checksum(*parts: object) -> str:
    """SHA-256 over arrays (their bytes) and anything else (its text), as hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        text = f"{part}\0".encode(errors="surrogateescape")
        total.update(part.tobytes() if isinstance(part, np.ndarray) else text)
    return total.hexdigest()


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
        shape = tuple(self.images.shape)
        return checksum(self.name, shape, self.images.numpy(), self.labels.numpy(), self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float32 (C, H, W) in [-1, 1], label)."""
        return to_float(self.images[index]), int(self.labels[index])

    def fetch(self, rows: Sequence[int], seeds: Sequence) -> tuple[Tensor, Tensor, list[str]]:
        """As that of `LazyImages`; nothing is broken, and nothing cropped."""
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
    broken: dict[str, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.labels)
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
        view = (self.name, self.train, self.size, self.channels, self.labels, self.classes)
        contents = [getattr(self.cells, "_fingerprint", "")]
        if isinstance(self.cells, list):
            found = ((f, os.stat(f) if os.path.exists(f) else os.lstat(f)) for f in self.cells)
            contents = (f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in found)
        return checksum(*view, *contents)

    def _decoded(self, first: int, broken: dict[str, None]):
        """The picture (PIL) of row `first`, or the next good one, and its label."""
        tries = min(len(self), IN_A_ROW)
        for row in (i % len(self) for i in range(first, first + tries)):
            cell, name = self.cells[row], f"{self.name}, row {row}"
            cell, name = (cell, cell) if isinstance(cell, str) else (encoded(*cell.values()), name)
            try:
                return decode(cell, name, self.channels), int(self.labels[row])
            except ValueError as error:
                broken[name], reason = None, error
        raise ValueError(f"{self.name}: {tries} pictures in a row cannot be read; {reason}")

    def fetch(self, rows: Sequence[int], seeds: Sequence) -> tuple[Tensor, Tensor, list[str]]:
        """Images uint8 (B, C, size, size), labels (B,), and the names of broken pictures.

        A seed alone decides a training crop. ValueError after IN_A_ROW broken pictures.
        """
        images, labels, broken = [], [], {}
        for row, seed in zip(rows, seeds):  # one at a time: whole pictures may be large
            picture, label = self._decoded(row, broken)
            rng = np.random.default_rng(seed) if self.train else None
            images.append(to_tensor(resize_and_crop(picture, self.size, rng)))
            labels.append(label)
        return torch.stack(images), torch.tensor(labels), list(broken)

    def note_broken(self, names: Sequence[str]) -> None:
        """Logs and counts broken pictures, each once, in `broken`."""
        for name in (name for name in names if name not in self.broken):
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
