"""Sets of labelled images: in memory, and decoded when asked for."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
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


class Images(Dataset):
    """What sets in memory and lazy ones have in common."""

    def __post_init__(self) -> None:
        """ValueError for an empty set, a label outside the classes, a name that is no text."""
        if not len(self):
            raise ValueError(f"{self.name}: holds no images")
        labels, count = np.asarray(self.labels), len(self.classes)
        if len(wrong := np.flatnonzero((labels < 0) | (labels >= count))):
            raise ValueError(
                f"{self.name}: row {wrong[0]} has label {labels[wrong[0]]}, expected 0 to "
                f"{count - 1} (-1 marks a part without labels: take another part)"
            )
        if odd := [name for name in self.classes if not name.isprintable()]:  # in pictures, too
            raise ValueError(f"{self.name}: the class name {odd[0]!r} is no text: rename it")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what the set holds and how it is cropped."""
        total = hashlib.sha256()
        for part in self.content():
            total.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\0".encode())
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float32 (C, H, W) in [-1, 1], label); the index alone decides a crop."""
        index = range(len(self))[index]  # the IndexError that ends a loop
        images, labels, broken = self.fetch([index], [(0, index)])
        self.note_broken(broken)
        return to_float(images[0]), int(labels[0])

    def note_broken(self, reasons: Mapping[str, str]) -> None:
        """Logs and counts broken pictures, each once, in `broken`."""
        for name in (n for n in reasons if n not in self.broken):
            self.broken.add(name)
            so_far = f"({len(self.broken)} of {len(self)} so far)"
            log.warning("%s; the next one takes its place %s", reasons[name], so_far)


@dataclass(eq=False)
class ImageSet(Images):
    """A set held in memory: images uint8 (N, C, H, W), labels int64 (N,) in [0, len(classes))."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.channels, self.size = self.images.shape[1], self.images.shape[3]

    def content(self) -> Iterable[object]:
        """What the fingerprint covers: the pixels, the labels and the names."""
        pixels = self.images.numpy()
        return self.name, pixels.shape, pixels, self.labels.numpy(), self.classes

    def fetch(self, rows: Sequence[int], seeds: Sequence) -> tuple[Tensor, Tensor, dict]:
        """As that of `LazyImages`; nothing is broken, and nothing cropped."""
        return self.images[rows], self.labels[rows], {}


@dataclass(eq=False, repr=False)
class LazyImages(Images):
    """Pictures decoded when asked for, with VAR's transform.

    The shorter side is resized to 1.125 x size (Lanczos), then a square of `size` is cropped: at
    random in training, from the centre in test (the official code, its `utils/data.py`). Without
    `size` the first picture's shorter side is taken; without `channels`, 1 if it is grey, else 3.
    A broken picture is logged by name, counted in `broken`, and replaced by the next one that can
    be read, so that what a batch holds stays a function of its rows and seeds.
    """

    cells: Any  # a `datasets.Dataset` of one column: pictures, still encoded
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    train: bool
    size: int | None = None
    channels: int | None = None
    broken: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.size and self.channels):
            picture, _ = self._decoded(0, {})
            self.size = self.size or min(picture.size)
            self.channels = self.channels or len(picture.getbands())

    def content(self) -> Iterable[object]:
        """What the fingerprint covers; the table's own one stands for the pictures."""
        yield from (self.name, self.train, self.size, self.channels, self.labels, self.classes)
        yield self.cells._fingerprint

    def fetch(self, rows: Sequence[int], seeds: Sequence) -> tuple[Tensor, Tensor, dict]:
        """Images uint8 (B, C, size, size), labels (B,), and what is wrong with broken pictures.

        A seed alone decides a training crop. ValueError after IN_A_ROW broken pictures.
        """
        images, labels, broken = [], [], {}
        for row, seed in zip(rows, seeds):  # one at a time: whole pictures may be large
            picture, label = self._decoded(row, broken)
            rng = np.random.default_rng(seed) if self.train else None
            images.append(to_tensor(resize_and_crop(picture, self.size, rng)))
            labels.append(label)
        return torch.stack(images), torch.tensor(labels), broken

    def _decoded(self, first: int, broken: dict[str, str]):
        """The picture (PIL) of row `first`, or the next good one, and its label."""
        tries = min(len(self), IN_A_ROW)
        for row in (i % len(self) for i in range(first, first + tries)):
            (cell,) = self.cells[row].values()
            cell = cell or {"bytes": None, "path": None}
            name = (not cell["bytes"] and cell["path"]) or f"{self.name}, row {row}"
            try:
                return decode(cell, name, self.channels), int(self.labels[row])
            except ValueError as error:
                broken[name] = str(error)
        raise ValueError(f"{self.name}: {tries} pictures in a row cannot be read; {broken[name]}")
