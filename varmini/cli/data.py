"""`varmini data`: which sets are here, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..data import load_images
from ..data.loading import KNOWN, NAMES, SUBSETS, find_parquet
from ..data.tables import count_rows
from .main import parse


@dataclass(frozen=True)
class Data:
    """Lists the data sets and where each was found; with names or folders, their classes."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sets to open and to count, class by class."""
    root: Path | None = None
    """Folder with the full sets' parquet files; None: $VARMINI_DATA, then the hub."""


def data(args: Sequence[str], prog: str) -> None:
    """`varmini data`."""
    o = parse(Data, args, prog)
    if o.names:
        for name in o.names:
            _describe(name, o.root)
        return
    rows = [("name", "train", "test", "images", "found")]
    for name in (*SUBSETS, *KNOWN):
        known = KNOWN[name.removesuffix("-subset")]
        files = [find_parquet(name, split, o.root) for split in ("train", "test")]
        found = f"in {files[0][0].parent}" if files[0] else f"not here; from the hub: {known.hub}"
        channels, *sides = known.shape
        shape = "x".join(map(str, (channels, *(side + 2 * known.padding for side in sides))))
        rows.append((name, *(count_rows(part) or "" for part in files), shape, found))
    rows.append(("imagenet", "", "", "3 channels", "from the hub: imagenet-1k, or --root FOLDER"))
    widths = [max(len(str(row[i])) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(f"{value!s:<{w}}" for value, w in zip(row, [*widths, 0])).rstrip())
    print(
        "Any folder with one folder of pictures per class, or with parquet files, works too: "
        "varmini data FOLDER"
    )


def _describe(name: str, root: Path | None) -> None:
    import numpy as np

    for split in ("train", "test"):
        dataset = load_images(name, split, root=root if name in NAMES else None)
        labels, number = np.asarray(dataset.labels), len(dataset.classes)
        # The labels of a stream are known only by reading all of it.
        counts = np.bincount(labels, minlength=number) if len(labels) else ["?"] * number
        print(
            f"{dataset.name}, {split}: {len(dataset)} images of {dataset.channels} channels, "
            f"{dataset.size} pixels a side, {number} classes"
        )
        for label, (count, title) in enumerate(zip(counts, dataset.classes)):
            print(f"  {label:>4}  {title:<20} {count}")
