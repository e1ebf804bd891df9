"""Sets too large for memory: pictures decoded one by one, in worker processes if asked.

`data.load_images` makes these for folders and ImageNet; `data.batches` reads them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .sources import (
    SPLITS,
    class_folders,
    convert,
    decode,
    find_columns,
    held_out,
    is_grey,
    picture_bytes,
    read_labels,
    resize_and_crop,
    spread,
    to_float,
    to_tensor,
)

log = logging.getLogger(__name__)


class LazyImages(Dataset):
    """Common part of the sets that are decoded when asked for, with VAR's transform.

    The shorter side is resized to 1.125 x size (Lanczos), then a square of `size` is cropped:
    at random in training, from the centre in test; no mirroring here (VAR, appendix; its
    repository's dataset code). Without `size` the first picture's shorter side is taken;
    without `channels`, 1 if the first picture is grey, else 3. Transparent parts become white.
    """

    skip_broken = False
    broken: list[str]  # names of the pictures that could not be read so far

    def _setup(self, name: str, train: bool, size: int | None, channels: int | None) -> None:
        self.name, self.train, self.broken = name, train, []
        first = None if size and channels else self._first()
        self.size = size or min(first.size)
        self.channels = channels or (1 if is_grey(first) else 3)

    def _first(self):
        """The first readable picture (where pictures may be skipped)."""
        for index in range(len(self)):
            try:
                return self.open(index)
            except ValueError:
                if not self.skip_broken:
                    raise
        raise ValueError(f"{self.name}: none of its {len(self)} pictures can be read")

    def __len__(self) -> int:
        return len(self.labels)

    def source(self, index: int) -> str:
        """The name of a picture, for messages."""
        raise NotImplementedError

    def open(self, index: int):
        """The decoded PIL image; ValueError naming the picture when it is broken."""
        raise NotImplementedError

    def fetch(self, index: int, seed: int) -> tuple[Tensor, int, list[int]]:
        """(uint8 image (C, size, size), label, broken pictures that were stepped over).

        `seed` alone decides the training crop. A broken picture of a folder is replaced by the
        next one; in a parquet file it is a ValueError.
        """
        passed = []
        while True:
            try:
                picture = self.open(index)
                break
            except ValueError:
                passed.append(index)
                if not self.skip_broken:
                    raise
                if len(passed) == min(len(self), 100):
                    raise ValueError(
                        f"{self.name}: {len(passed)} pictures in a row cannot be read, "
                        f"the last is {self.source(index)}"
                    ) from None
                index = (index + 1) % len(self)
        rng = np.random.default_rng(seed) if self.train else None
        image = resize_and_crop(convert(picture, self.channels), self.size, rng)
        return to_tensor(image), int(self.labels[index]), passed

    def note_broken(self, indices: Sequence[int]) -> None:
        """Log and count broken pictures, each once, in `broken`."""
        for index in indices:
            if (name := self.source(index)) not in self.broken:
                self.broken.append(name)
                log.warning("%s cannot be read; skipped (%d so far)", name, len(self.broken))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, label, passed = self.fetch(index, int(torch.randint(2**62, ())))
        self.note_broken(passed)
        return to_float(image), label


class FolderImages(LazyImages):
    """One folder of pictures per class; the sorted folder names are the classes.

    With `train/` beside `test/`, `val/` or `validation/`, those are the splits, and the classes
    are train's. Otherwise, in each class, the tenth of the pictures (at least one, if there are
    two) whose names have the smallest checksum is the test split and the rest is for training:
    always the same, on every machine. Broken pictures are logged, skipped and counted.
    """

    skip_broken = True

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        *,
        size: int | None = None,
        channels: int | None = None,
        limit: int | None = None,
    ) -> None:
        folder = Path(folder)
        parts = {
            s: next((folder / n for n in SPLITS[s] if any((folder / n).glob("*/"))), None)
            for s in SPLITS
        }  # a class may be called "train": then it holds no folders
        if any(parts.values()):
            if parts[split] is None:
                raise ValueError(
                    f"{folder}: no {' or '.join(n + '/' for n in SPLITS[split])} with class folders"
                )
            found = class_folders(parts[split])
            classes = sorted(class_folders(parts["train"])) if parts["train"] else sorted(found)
            if unknown := sorted(found.keys() - set(classes)):
                raise ValueError(f"{parts[split]}: class {unknown[0]!r} is not in {parts['train']}")
        else:
            found = class_folders(folder)
            classes = sorted(found)
            found = {c: held_out(found[c], folder, split == "test") for c in classes}
        pairs = [(f, i) for i, c in enumerate(classes) for f in found.get(c, ())]
        if not pairs:
            raise ValueError(f"{folder}: no pictures for split {split!r}; add more to each class")
        pairs = [pairs[i] for i in spread(len(pairs), limit)]
        self.files = [f for f, _ in pairs]
        self.labels = np.array([i for _, i in pairs])
        self.classes = tuple(classes)
        self._setup(folder.resolve().name, split == "train", size, channels)

    def source(self, index: int) -> str:
        return self.files[index]

    def open(self, index: int):
        return decode(self.files[index], self.files[index])


def map_parquet(files: list[Path]):
    """The rows of parquet files, memory-mapped by `datasets` from its cache."""
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=[str(f) for f in files], split="train")
    except Exception as error:  # it wraps whatever its readers raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{files[0].parent}: cannot be read as parquet ({reason})") from None


class ParquetImages(LazyImages):
    """A `datasets.Dataset` (memory-mapped parquet files, or the hub's) with an image and a label
    column in the hub's schema. A broken picture is a ValueError that names its row."""

    def __init__(
        self,
        rows,
        name: str,
        split: str = "train",
        *,
        size: int | None = None,
        channels: int | None = None,
        limit: int | None = None,
    ) -> None:
        schema = rows.features.arrow_schema
        self.image_column, label = find_columns(schema, name)
        column = rows.select_columns([label]).with_format("arrow")[:][label]
        self.labels, self.classes = read_labels(column, schema, label, name)
        self.index = spread(len(rows), limit)
        self.labels = self.labels[self.index]
        self.rows = rows.select_columns([self.image_column]).with_format("arrow")
        self._setup(name, split == "train", size, channels)

    def source(self, index: int) -> str:
        return f"{self.name}, row {self.index[index]}"

    def open(self, index: int):
        cell = self.rows[int(self.index[index])][self.image_column][0].as_py()
        return decode(picture_bytes(cell), self.source(index))
