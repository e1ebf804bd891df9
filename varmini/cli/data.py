"""`varmini data`: which sets are here, and what is in them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ..data import load_images
from ..data.loading import KNOWN, find_folder
from ..data.sources import SPLITS, count_rows, parquet_files


@dataclass(frozen=True)
class Data:
    """Lists the data sets and where each was found; with names or folders, their classes."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()  # Sets to count, class by class.
    root: Path | None = None
    """Folder with the full sets' parquet files; None: $VARMINI_DATA, then the hub."""

    def __call__(self) -> None:
        for name in self.names:
            for split in ("train", "test"):
                self._describe(name, split)
        if self.names:
            return
        row = "{:<15} {:>6} {:>6}  {}".format
        print(row("name", "train", "test", "found"))
        for name, (_, hub) in KNOWN.items():
            folder = find_folder(name, self.root)
            files = [parquet_files(folder, s[::-1]) if folder else [] for s in SPLITS.values()]
            counts = (count_rows(part) if part else "" for part in files)
            print(row(name, *counts, f"in {folder}" if folder else f"not here; hub: {hub}"))
        print("Any folder with one folder of pictures per class, or with parquet files, works too: "
              "varmini data FOLDER")  # fmt: skip

    def _describe(self, name: str, split: str) -> None:
        dataset = load_images(name, split, root=self.root if name in KNOWN else None)
        labels, number = np.asarray(dataset.labels), len(dataset.classes)
        counts = np.bincount(labels, minlength=number)
        print(
            f"{dataset.name}, {split}: {len(dataset)} images of {dataset.channels} channels, "
            f"{dataset.size} pixels a side, {number} classes"
        )
        for label, (count, title) in enumerate(zip(counts, dataset.classes)):
            print(f"  {label:>4}  {title:<20} {count}")
