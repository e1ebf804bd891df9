"""`varmini data`: which sets are here, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ..data.sets import EMBEDDED, KNOWN, NAMES, SUBSETS, find_parquet, load_images
from ..data.sources import count_rows, parquet_files
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
    for name, (full, folder) in SUBSETS.items():
        counts = [_rows(parquet_files(EMBEDDED / folder, (s,))) for s in ("train", "test")]
        found = f"in data/{folder}" if counts[0] else "missing: run from a checkout"
        rows.append((name, *counts, _shape(full), found))
    for name, known in KNOWN.items():
        files = [find_parquet(name, split, o.root) for split in ("train", "test")]
        place = f"in {files[0][0].parent}" if files[0] else f"not here; from the hub: {known.hub}"
        rows.append((name, *map(_rows, files), _shape(name), place))
    rows.append(("imagenet", "", "", "3 channels", "from the hub: imagenet-1k, or --root FOLDER"))
    widths = [max(len(str(row[i])) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(f"{value!s:<{w}}" for value, w in zip(row, [*widths, 0])).rstrip())
    print(
        "Any folder with one folder of pictures per class, or with parquet files, works too: "
        "varmini data FOLDER"
    )


def _shape(name: str) -> str:
    known = KNOWN[name]
    side = known.size + 2 * known.padding
    return f"{known.channels}x{side}x{side}"


def _rows(files: Sequence[Path]) -> int | str:
    """Rows of parquet files, from their footers alone."""
    return sum(map(count_rows, files)) or ""


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
