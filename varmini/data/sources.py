"""What a folder of pictures or a table of `datasets` holds: encoded pictures, labels, classes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
BASES = ("", "ILSVRC/Data/CLS-LOC")  # the second as ImageNet is distributed
SUFFIXES = tuple(".png .jpg .jpeg .jfif .webp .avif .bmp .gif .ppm .pgm .tif .tiff".split())
HELD_OUT = 10  # a folder without split folders keeps one picture in ten for test
MAX_CLASSES = 1_000_000


def spread(total: int, limit: int | None) -> np.ndarray:
    """`limit` indices evenly spaced over range(total), so that sorted sets give all classes."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // count


def split_files(
    folder: Path, split: str, limit: int | None = None
) -> tuple[list[str], list[int], tuple[str, ...]]:
    """The files of a split (`limit`: so many), their labels, and the classes.

    `datasets`' own reader takes the innermost folder for the class, and holds nothing out. Here the
    folders in `folder` are the classes. With `train/` beside `test/`, `validation/` or `val/` (also
    below ILSVRC/Data/CLS-LOC), those are the splits, and the classes are train's. Otherwise, in
    each class, the tenth of the pictures (at least one, if there are two) whose names have the
    smallest checksum is the test split: always the same, on every machine.
    ValueError when the split has no labelled pictures, or a class that train has not.
    """
    parts: dict[str, Path] = {}
    for part, base, name in ((p, b, n) for p in SPLITS for b in BASES for n in SPLITS[p]):
        if any((folder / base / name).glob("*/")):  # a class "train" holds no folders
            parts.setdefault(part, folder / base / name)
    if parts and split not in parts:
        wanted = " or ".join(name + "/" for name in SPLITS[split])
        raise ValueError(f"{folder}: no {wanted} with one sub-folder of pictures per class")
    part = parts.get(split, folder)
    found = _pictures(part)
    classes = tuple(_pictures(parts["train"]) if "train" in parts else found)
    if unknown := sorted(found.keys() - set(classes)):
        raise ValueError(f"{part}: class {unknown[0]!r} is not in {parts['train']}: "
                         f"add it there, or remove it here")  # fmt: skip
    if not parts:
        for name, files in found.items():
            count = max(len(files) // HELD_OUT, min(len(files) - 1, 1))
            ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f)).digest())
            found[name] = sorted(ranked[:count] if split == "test" else ranked[count:])
    pairs = [(os.path.join(part, f), i) for i, c in enumerate(classes) for f in found.get(c, ())]
    if not pairs:
        loose = any(p.name.lower().endswith(SUFFIXES) for p in folder.iterdir())
        what = "its pictures are not labelled" if loose else f"no pictures for split {split!r}"
        raise ValueError(
            f"{part}: {what}; expected one sub-folder per class, each with pictures "
            f"({' '.join(SUFFIXES)})"
        )
    check_labels(np.array([label for _, label in pairs]), classes, str(part))
    files, labels = zip(*(pairs[i] for i in spread(len(pairs), limit)))
    return list(files), list(labels), classes


def _pictures(folder: Path) -> dict[str, list[str]]:
    """Sorted files (below `folder`) by class; what is hidden, and linked folders in a class, are
    left out."""
    found: dict[str, list[str]] = {}
    for top in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        for at, below, names in os.walk(top):
            below[:] = [name for name in below if name[0] != "."]
            names = [n for n in names if n.lower().endswith(SUFFIXES) and n[0] != "."]
            if names:
                here = os.path.relpath(at, folder)
                found.setdefault(top.name, []).extend(os.path.join(here, n) for n in names)
    return {name: sorted(files) for name, files in found.items()}


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files `split.parquet` or `split-*.parquet` in a folder, sorted; ValueError when shards
    of `split-00000-of-00004` are missing."""
    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    shards = re.search(r"-of-0*(\d+)", files[0].name) if files else None
    if shards and int(shards[1]) != len(files):
        raise ValueError(f"{folder}: {len(files)} of {shards[1]} {split} files; fetch the others")
    return files


def read_parquet(files: Sequence[Path], in_memory: bool = False):
    """Parquet files as a `datasets.Dataset`, mapped from its cache on the disk or, `in_memory`,
    without one; ValueError naming the first damaged file."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for at in files:
            pq.read_metadata(at)
        at = files[0].parent
        if in_memory:
            return datasets.Dataset(pa.concat_tables(map(pq.read_table, files)))
        return datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:  # pyarrow and `datasets` raise nearly everything on damaged bytes
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{at}: not read as parquet ({reason}); fetch it again") from None


def find_columns(features, source: str) -> tuple[str, str]:
    """The names of the picture column and of the label column in `datasets.Features`.

    The first is a `datasets.Image` or holds encoded bytes, the second is a `ClassLabel` or holds
    integers or texts. Of several, the one called image or img, label or labels is taken.
    ValueError when there is none, or no telling which.
    """
    from datasets import ClassLabel, Image, Value

    plain = {c: f.get("bytes") if isinstance(f, dict) else f for c, f in features.items()}
    plain = {c: f.dtype for c, f in plain.items() if isinstance(f, Value)}

    def find(what: str, names: Sequence[str], kind: type, dtypes: tuple[str, ...]) -> str:
        found = [c for c, feature in features.items() if isinstance(feature, kind)]
        found = found or [c for c, dtype in plain.items() if dtype.startswith(dtypes)]
        found = [name for name in names if name in found][:1] or found
        if len(found) != 1:
            raise ValueError(
                f"{source}: {'no column' if not found else 'more than one column'} of {what} among "
                f"{', '.join(found or features)}; call it {names[0]!r} (`rows.rename_column`)"
            )
        return found[0]

    return (
        find("pictures", ("image", "img"), Image, ("binary", "large_binary", "null")),
        find("labels", ("label", "labels"), ClassLabel, ("int", "uint", "string", "large_string")),
    )


def read_labels(rows, label: str, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64 and the names of the classes: those of the `ClassLabel`, the sorted texts
    in the column, or the numbers up to the largest label; ValueError for a row without one."""
    column = rows.select_columns([label]).with_format("arrow")[:][label]  # nothing is decoded
    if column.null_count:
        raise ValueError(f"{source}: {column.null_count} rows without a label: leave "
                         f"them out (`rows.filter`)")  # fmt: skip
    labels, classes = column.to_numpy(), getattr(rows.features[label], "names", None)
    if labels.dtype == object:
        classes, labels = np.unique(labels.astype(str), return_inverse=True)
    elif not classes:
        largest = int(labels.max(initial=-1))
        if largest >= MAX_CLASSES:
            raise ValueError(f"{source}: a label is {largest}, expected under {MAX_CLASSES}: "
                             f"number the classes from 0")  # fmt: skip
        classes = range(largest + 1)
    labels, classes = labels.astype(np.int64), tuple(map(str, classes))
    check_labels(labels, classes, source)
    return labels, classes


def read_rows(rows, source: str, limit: int | None = None):
    """Of a `datasets.Dataset` (`limit`: so many rows): one that holds its column of pictures, still
    encoded; labels (N,) int64; the names of the classes."""
    from datasets import Image

    image, label = find_columns(rows.features, source)
    labels, classes = read_labels(rows, label, source)
    cells, index = rows.select_columns([image]).with_format(None), spread(len(rows), limit)
    if isinstance(rows.features[image], Image):
        cells = cells.cast_column(image, Image(decode=False))  # our workers decode, not its reader
    return cells.select(index), labels[index], classes


def check_labels(labels: np.ndarray, classes: Sequence[str], source: str) -> None:
    """ValueError for an empty set, for a label outside the classes, for a name that is no text."""
    if not len(labels):
        raise ValueError(f"{source}: holds no images")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"{source}: row {wrong[0]} has label {labels[wrong[0]]}, expected 0 to "
            f"{len(classes) - 1} (-1 marks a part without labels: take another part)"
        )
    for name in classes:  # they go into pictures and to the terminal
        if not name.isprintable():
            raise ValueError(f"{source}: the class name {name!r} is no text: rename it")


def encoded(cell: dict | bytes | None) -> bytes | str:
    """The encoded picture in a cell of a picture column, or the name of its file."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return cell or b""
