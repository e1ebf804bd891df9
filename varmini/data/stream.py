"""ImageNet as a stream: read from the hub, or from parquet files, while it is used; nothing is
copied to the disk first. For machines without room for 150 GB; each epoch reads everything anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from torch import Tensor

from .lazy import LazyImages
from .sources import (
    convert,
    decode,
    find_columns,
    picture_bytes,
    resize_and_crop,
    schema_classes,
    to_float,
    to_tensor,
)

BUFFER = 2048
"""Images among which the next one is chosen; the order of the files is shuffled as well."""
Cell = tuple[int, str, bytes, int]
"""Position in the stream, name, encoded picture, label."""


class StreamedImages(LazyImages):
    """A `datasets.IterableDataset` with an image and a label column in the hub's schema.

    The order of an epoch is a function of (seed, epoch), and of nothing else. On several processes
    each reads the whole stream and decodes its share.

    Args:
        total: rows in the stream.
        mark: what tells this set from others of the same name.
    """

    def __init__(
        self,
        rows,
        total: int,
        name: str,
        split: str = "train",
        *,
        size: int,
        channels: int,
        limit: int | None = None,
        mark: Sequence[object] = (),
    ) -> None:
        import datasets

        schema = rows.features.arrow_schema
        self.columns = find_columns(schema, name)
        classes = schema_classes(schema, self.columns[1], name)
        if classes is None:
            raise ValueError(f"{name}: a stream must name its classes in its metadata")
        image = self.columns[0]
        if isinstance(rows.features[image], datasets.Image):  # our workers decode, not the reader
            rows = rows.cast_column(image, datasets.Image(decode=False))
        self.rows = rows.select_columns(list(self.columns))
        self.total, self.limit = min(total, limit or total), limit
        self.rows = self.rows.take(self.total) if limit else self.rows
        self.classes, self.labels, self.mark = classes, np.empty(0, np.int64), list(mark)
        self.walk: tuple[int, Iterator[Cell]] = (0, iter(()))
        self._setup(name, split == "train", size, channels)

    def __len__(self) -> int:
        return self.total

    def _marks(self) -> list[object]:
        return [self.total, *self.mark]

    def source(self, index: int | str) -> str:
        return f"{self.name}, {index}"

    def cells(self, shuffle: tuple[int, int] | None = None, skip: int = 0) -> Iterator[Cell]:
        """The rows from `skip` on: in the files' order, or in that of (seed, epoch)."""
        rows = self.rows
        if shuffle is not None:
            seed = int(np.random.default_rng(shuffle).integers(2**31))
            rows = rows.shuffle(seed=seed, buffer_size=BUFFER)
        image, label = self.columns
        for position, row in enumerate(rows.skip(skip) if skip else rows, skip):
            path = row[image].get("path") if isinstance(row[image], dict) else None
            title = path or f"streamed row {position}"
            if not isinstance(row[label], int) or not 0 <= row[label] < len(self.classes):
                raise ValueError(
                    f"{self.source(title)} has label {row[label]}, expected 0 to "
                    f"{len(self.classes) - 1} (-1 marks a part without labels)"
                )
            yield position, title, picture_bytes(row[image]), row[label]

    def fetch_all(self, cells: Sequence[Cell], seeds: Sequence) -> list[tuple]:
        """A broken picture's place is taken by the next good one of the batch, around its end."""
        items, broken = {}, []
        for at, ((_, title, content, label), seed) in enumerate(zip(cells, seeds, strict=True)):
            try:
                picture = convert(decode(content, self.source(title)), self.channels)
            except ValueError as error:
                broken.append(title)
                last = error
                continue
            rng = np.random.default_rng(seed) if self.train else None
            items[at] = to_tensor(resize_and_crop(picture, self.size, rng)), label, []
        if not items:
            raise ValueError(f"{self.name}: no picture of a batch can be read; {last}")
        count = len(cells)
        order = [next(i % count for i in range(at, at + count) if i % count in items)
                 for at in range(count)]  # fmt: skip
        found = [items[i] for i in order]
        return [(*found[0][:2], broken), *found[1:]]

    def plan(self, batch_size: int, seed: int, start: int) -> Iterator[tuple]:
        """What `batching` reads, a batch at a time: cells, crop seeds, mirrored or not."""
        per_epoch = self.total // batch_size
        epoch, first = divmod(start, per_epoch)
        while True:
            rng = np.random.default_rng((seed, epoch))
            seeds, mirrored = rng.integers(2**62, size=self.total), rng.random(self.total) < 0.5
            cells = self.cells((seed, epoch), skip=first * batch_size)
            for step in range(first, per_epoch):
                part = slice(step * batch_size, (step + 1) * batch_size)
                found = list(islice(cells, batch_size))
                if len(found) < batch_size:
                    raise ValueError(f"{self.name}: the stream ends before its {self.total} rows")
                yield found, seeds[part], mirrored[part]
            epoch, first = epoch + 1, 0

    def plan_in_order(self, batch_size: int, rows: range) -> Iterator[tuple]:
        """The same for one pass over a stretch of the set in the files' order."""
        cells = islice(self.cells(skip=rows.start), len(rows))
        while part := list(islice(cells, batch_size)):
            yield part, [(0, position) for position, *_ in part], None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image as `in_order` gives it. Walks along the stream: only for the first few."""
        if not 0 <= index < self.total:
            raise IndexError(index)
        at, cells = self.walk
        if index != at or not at:
            cells = self.cells(skip=index)
        image, label, passed = self.fetch_all([next(cells)], [(0, index)])[0]
        self.walk = (index + 1, cells)
        self.note_broken(passed)
        return to_float(image), label

    def __getstate__(self) -> dict:
        return self.__dict__ | {"walk": (0, iter(())), "rows": None}  # workers decode only
