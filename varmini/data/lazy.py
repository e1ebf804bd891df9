"""Sets too large for memory: pictures decoded one by one, in worker processes if asked.

`data.load_images` makes these for folders and ImageNet; `data.batches` reads them.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .folders import split_files
from .sources import (
    checksum,
    convert,
    decode,
    file_marks,
    find_columns,
    is_grey,
    picture_bytes,
    read_labels,
    resize_and_crop,
    spread,
    to_float,
    to_tensor,
)

log = logging.getLogger(__name__)
IN_A_ROW = 100
"""So many broken pictures in a row are no accident: the disk is gone, or these are no pictures."""


class LazyImages(Dataset):
    """Common part of the sets that are decoded when asked for, with VAR's transform.

    The shorter side is resized to 1.125 x size (Lanczos), then a square of `size` is cropped:
    at random in training, from the centre in test; no mirroring here (the official code, its
    `utils/data.py`). Without `size` the first picture's shorter side is taken;
    without `channels`, 1 if the first picture is grey, else 3. Transparent parts become white.

    A broken picture is logged by name, counted in `broken`, and replaced by the next one that can
    be read, so that what a batch holds stays a function of its indices and seeds.
    """

    broken: list[str]  # names of the pictures that could not be read so far
    labels: np.ndarray
    classes: tuple[str, ...]

    def _setup(self, name: str, train: bool, size: int | None, channels: int | None) -> None:
        self.name, self.train, self.broken = name, train, []
        first = None if size and channels else self._first()
        self.size = size or min(first.size)
        self.channels = channels or (1 if is_grey(first) else 3)

    def _first(self):
        """The first picture that can be read."""
        for index in range(min(len(self), IN_A_ROW)):
            try:
                return self.open(index)
            except ValueError:
                continue
        raise ValueError(f"{self.name}: none of its first {index + 1} pictures can be read")

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, index: int) -> str:
        """The name of a picture, for messages."""
        raise NotImplementedError

    def open(self, index: int):
        """The decoded PIL image; ValueError naming the picture when it is broken."""
        raise NotImplementedError

    def _marks(self) -> list[object]:
        """What tells this set from others of the same name: files, sizes, times."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of what the set holds and how it is cropped, from names, sizes and times."""
        view = (self.name, self.train, self.size, self.channels, self.labels, *self.classes)
        return checksum(type(self).__name__, *view, *self._marks())

    def fetch(self, index: int, seed: int | Sequence[int]) -> tuple[Tensor, int, list[int]]:
        """(uint8 image (C, size, size), label, broken pictures that were stepped over).

        `seed` alone decides the training crop. ValueError after IN_A_ROW broken pictures.
        """
        passed = []
        while True:
            try:
                picture = convert(self.open(index), self.channels)
                break
            except ValueError as error:
                passed.append(index)
                if len(passed) == min(len(self), IN_A_ROW):
                    raise ValueError(
                        f"{self.name}: {len(passed)} pictures in a row cannot be read; {error}"
                    ) from None
                index = (index + 1) % len(self)
        rng = np.random.default_rng(seed) if self.train else None
        image = resize_and_crop(picture, self.size, rng)
        return to_tensor(image), int(self.labels[index]), passed

    def fetch_all(self, indices: Sequence, seeds: Sequence) -> list[tuple[Tensor, int, list[int]]]:
        """`fetch` for each image of a batch."""
        return [self.fetch(int(i), s) for i, s in zip(indices, seeds, strict=True)]

    def plan_in_order(self, batch_size: int, rows: range) -> Iterator[tuple]:
        """(indices, crop seeds, None) of one pass over a stretch of the set, a batch at a time."""
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield part, [(0, i) for i in part], None

    def note_broken(self, indices: Sequence[int]) -> None:
        """Log and count broken pictures, each once, in `broken`."""
        for index in indices:
            if (name := self.source(index)) not in self.broken:
                self.broken.append(name)
                log.warning(
                    "%s cannot be read; the next picture takes its place (%d so far)",
                    name,
                    len(self.broken),
                )

    def report_broken(self) -> None:
        """Log how many pictures were broken, if any; for the end of an epoch or a run."""
        if self.broken:
            log.warning(
                "%s: %d of %d pictures cannot be read", self.name, len(self.broken), len(self)
            )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """(image float (C, size, size) in [-1, 1], label); the crop is a function of the index."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, label, passed = self.fetch(index, (0, index))
        self.note_broken(passed)
        return to_float(image), label


class FolderImages(LazyImages):
    """One folder of pictures per class, see `folders.split_files`; the sorted names of the class
    folders are the classes."""

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        size: int | None = None,
        channels: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        pairs, self.classes = split_files(self.folder, split)
        pairs = [pairs[i] for i in spread(len(pairs), limit)]
        self.files = [f for f, _ in pairs]
        self.labels = np.array([i for _, i in pairs])
        self._setup(self.folder.resolve().name, split == "train", size, channels)

    def source(self, index: int) -> str:
        return self.files[index]

    def open(self, index: int):
        return decode(self.files[index], self.files[index])

    def _marks(self) -> list[object]:
        return file_marks(self.files, self.folder)


def map_parquet(files: list[Path], stream: bool = False):
    """The rows of parquet files, memory-mapped by `datasets` from its cache, or as a stream."""
    import datasets

    names = [str(f) for f in files]
    try:
        return datasets.load_dataset("parquet", data_files=names, split="train", streaming=stream)
    except Exception as error:  # it wraps whatever its readers raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{files[0].parent}: cannot be read as parquet ({reason})") from None


class ParquetImages(LazyImages):
    """A `datasets.Dataset` (memory-mapped parquet files, or the hub's) with an image and a label
    column in the hub's schema.

    files: the parquet files that the rows come from, where there are any; for the fingerprint.
    """

    def __init__(
        self,
        rows,
        name: str,
        split: str = "train",
        *,
        size: int | None = None,
        channels: int | None = None,
        limit: int | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        schema = rows.features.arrow_schema
        self.image_column, label = find_columns(schema, name)
        column = rows.select_columns([label]).with_format("arrow")[:][label]
        self.labels, self.classes = read_labels(column, schema, label, name)
        self.index = spread(len(rows), limit)
        self.labels = self.labels[self.index]
        self.files, self.origin = list(files), rows._fingerprint
        self.rows = rows.select_columns([self.image_column]).with_format("arrow")
        self._setup(name, split == "train", size, channels)

    def source(self, index: int) -> str:
        return f"{self.name}, row {self.index[index]}"

    def open(self, index: int):
        cell = self.rows[int(self.index[index])][self.image_column][0].as_py()
        return decode(picture_bytes(cell), self.source(index))

    def _marks(self) -> list[object]:
        # `datasets` names the hub's sets by revision and split; local files speak for themselves.
        known = file_marks(self.files, self.files[0].parent) if self.files else [self.origin]
        return [self.index, *known]
