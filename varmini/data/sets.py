"""Sets of labelled images: in memory, decoded when asked for, and read as a stream."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .pictures import decode, resize_and_crop, to_float, to_tensor
from .tables import check_labels, encoded, find_columns

log = logging.getLogger(__name__)
IN_A_ROW = 100  # so many broken pictures are no accident: the disk is gone, or they are no pictures
BUFFER = 2048  # rows of a stream among which the next is drawn; its shards are shuffled as well


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
            picture, _ = self._decoded(self.batch(range(1)), 0, {})
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

    def batch(self, rows: range) -> Sequence[Any]:
        """What `fetch` takes for these rows."""
        return rows

    def _cell(self, batch: Sequence[Any], at: int, step: int) -> tuple[bytes | str, str, int]:
        """(encoded, name, label) of picture `at`, or `step` behind it, of a batch."""
        row = (int(batch[at]) + step) % len(self)
        index, label = int(self.index[row]), int(self.labels[row])
        cell = self.cells[index]
        if isinstance(cell, str):
            return cell, cell, label
        return encoded(*cell.values()), f"{self.name}, row {index}", label

    def _decoded(self, batch: Sequence[Any], at: int, broken: dict):
        """Picture `at` of a batch (PIL) and its label; adds the broken ones before it."""
        tries = min(len(self), IN_A_ROW)
        for step in range(tries):
            cell, name, label = self._cell(batch, at, step)
            try:
                return decode(cell, name, self.channels), label
            except ValueError as error:
                broken[name] = reason = error
        raise ValueError(f"{self.name}: {tries} pictures in a row cannot be read; {reason}")

    def fetch(self, batch: Sequence[Any], seeds: Sequence) -> tuple[Tensor, Tensor, list[str]]:
        """Images uint8 (B, C, size, size), labels (B,), and the names of broken pictures.

        A seed alone decides a training crop. ValueError after IN_A_ROW broken pictures.
        """
        images, labels, broken = [], [], {}
        for at, seed in enumerate(seeds):
            picture, label = self._decoded(batch, at, broken)
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
        """(image float32 (C, size, size) in [-1, 1], label); a stream is read up to there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        images, labels, broken = self.fetch(self.batch(range(index, index + 1)), [(0, index)])
        self.note_broken(broken)
        return to_float(images[0]), int(labels[0])


class StreamedImages(LazyImages):
    """A `datasets.IterableDataset`: nothing is copied to the disk, each epoch reads all anew.

    The order of an epoch is a function of (seed, epoch), and of nothing else: each of several
    processes reads the whole stream and decodes its share. In the place of a broken picture comes
    the next good one of its batch.

    Args:
        total: rows in the stream.
    """

    def __init__(
        self, rows, total: int, name: str, train: bool, *, limit: int | None = None, **view: Any
    ) -> None:
        self.columns = image, label = find_columns(rows.features, name)
        classes = getattr(rows.features[label], "names", None)
        if not classes:
            raise ValueError(f"{name}: a stream names its classes: make {label!r} a ClassLabel")
        rows = undecoded(rows, image).select_columns([image, label])
        self.rows, self.total = rows.take(limit) if limit else rows, min(total, limit or total)
        super().__init__((), (), tuple(classes), name, train, **view)

    def __len__(self) -> int:
        return self.total

    def batch(self, rows: range) -> list[tuple[bytes | str, str, int]]:
        return list(islice(self.walk(skip=rows.start), len(rows)))

    def _cell(self, batch: Sequence[Any], at: int, step: int) -> tuple[bytes | str, str, int]:
        return batch[(at + step) % len(batch)]

    def walk(
        self, shuffle: tuple[int, int] | None = None, skip: int = 0
    ) -> Iterator[tuple[bytes | str, str, int]]:
        """(encoded, name, label) from row `skip` on: in the files' order, or of (seed, epoch)."""
        rows, (image, label) = self.rows, self.columns
        if shuffle is not None:
            seed = int(np.random.default_rng(shuffle).integers(2**31))
            rows = rows.shuffle(seed=seed, buffer_size=BUFFER)
        for position, row in enumerate(rows.skip(skip) if skip else rows, skip):
            check_labels(np.array([row[label]]), self.classes, f"{self.name}, streamed", position)
            yield encoded(row[image]), f"{self.name}, streamed row {position}", row[label]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"rows": None}  # workers only decode


def undecoded(rows, image: str):
    """An object of `datasets` whose pictures stay encoded: our workers decode, not its reader."""
    import datasets

    if isinstance(rows.features[image], datasets.Image):
        return rows.cast_column(image, datasets.Image(decode=False))
    return rows
