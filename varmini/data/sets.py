"""Sets of labelled images: in memory, and decoded when asked for."""

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .pictures import decode, resize_and_crop, to_float, to_tensor

log = logging.getLogger(__name__)
IN_A_ROW = 100  # so many broken pictures are no accident: the disk is gone, or they are no pictures


def spread(total: int, limit: int | None) -> np.ndarray:
    """`limit` indices evenly spaced over range(total), so that sorted sets give all classes."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // count


def check_labels(labels: np.ndarray, classes: Sequence[str], source: str) -> None:
    """ValueError for an empty set, for a label outside the classes, for a name that is no text."""
    if not len(labels):
        raise ValueError(f"{source}: holds no images")
    if len(wrong := np.flatnonzero((labels < 0) | (labels >= len(classes)))):
        raise ValueError(
            f"{source}: row {wrong[0]} has label {labels[wrong[0]]}, expected 0 to "
            f"{len(classes) - 1} (-1 marks a part without labels: take another part)"
        )
    if odd := [name for name in classes if not name.isprintable()]:  # for pictures and terminals
        raise ValueError(f"{source}: the class name {odd[0]!r} is no text: rename it")


class Images(Dataset):
    """What sets in memory and lazy ones have in common."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the set holds and how it is cropped."""
        total = hashlib.sha256()
        for part in self.content():
            text = f"{part}\0".encode(errors="surrogateescape")
            total.update(part.tobytes() if isinstance(part, np.ndarray) else text)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float32 (C, H, W) in [-1, 1], label); the index alone decides a crop."""
        index = range(len(self))[index]  # the IndexError that ends a loop
        images, labels, broken = self.fetch([index], [(0, index)])
        self.note_broken(broken)
        return to_float(images[0]), int(labels[0])

    def note_broken(self, names: Iterable[str]) -> None:
        """Logs and counts broken pictures, each once, in `broken`."""
        for name in (name for name in names if name not in self.broken):
            self.broken[name] = None
            so_far = f"({len(self.broken)} of {len(self)} so far)"
            log.warning("%s cannot be read; the next picture takes its place %s", name, so_far)


@dataclass(eq=False)
class ImageSet(Images):
    """A set held in memory: images uint8 (N, C, H, W), labels int64 (N,) in [0, len(classes))."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        check_labels(self.labels.numpy(), self.classes, self.name)
        self.channels, self.size = self.images.shape[1], self.images.shape[3]

    def content(self) -> Iterable[object]:
        """What the fingerprint covers: the pixels, the labels and the names."""
        pixels = self.images.numpy()
        return self.name, pixels.shape, pixels, self.labels.numpy(), self.classes

    def fetch(self, rows: Sequence[int], seeds: Sequence) -> tuple[Tensor, Tensor, list[str]]:
        """As that of `LazyImages`; nothing is broken, and nothing cropped."""
        return self.images[rows], self.labels[rows], []


@dataclass(eq=False, repr=False)
class LazyImages(Images):
    """Pictures decoded when asked for, with VAR's transform.

    The shorter side is resized to 1.125 x size (Lanczos), then a square of `size` is cropped: at
    random in training, from the centre in test (the official code, its `utils/data.py`). Without
    `size` the first picture's shorter side is taken; without `channels`, 1 if it is grey, else 3.
    A broken picture is logged by name, counted in `broken`, and replaced by the next one that can
    be read, so that what a batch holds stays a function of its rows and seeds.
    """

    cells: Sequence[Any]  # names of files, or a table (`read_rows`) with one picture a row
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    train: bool
    size: int | None = None
    channels: int | None = None
    broken: dict[str, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.size and self.channels):
            picture, _ = self._decoded(0, {})
            self.size = self.size or min(picture.size)
            self.channels = self.channels or len(picture.getbands())

    def content(self) -> Iterable[object]:
        """What the fingerprint covers; of files their names, sizes and times."""
        yield from (self.name, self.train, self.size, self.channels, self.labels, self.classes)
        if not isinstance(self.cells, list):
            yield self.cells._fingerprint
            return
        for file in self.cells:
            stat = os.stat(file) if os.path.exists(file) else os.lstat(file)
            yield f"{file} {stat.st_size} {stat.st_mtime_ns}"

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

    def _decoded(self, first: int, broken: dict[str, None]):
        """The picture (PIL) of row `first`, or the next good one, and its label."""
        tries = min(len(self), IN_A_ROW)
        for row in (i % len(self) for i in range(first, first + tries)):
            file, name = self.cells[row], f"{self.name}, row {row}"
            file, name = (file, file) if isinstance(file, str) else (*file.values(), name)
            try:
                return decode(file, name, self.channels), int(self.labels[row])
            except ValueError as error:
                broken[name], reason = None, error
        raise ValueError(f"{self.name}: {tries} pictures in a row cannot be read; {reason}")
