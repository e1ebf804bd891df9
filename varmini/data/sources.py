"""What folders of pictures, parquet files and tables of `datasets` hold: pictures, labels, classes.

`datasets` takes 0.7 seconds to load, so this file is imported where it is used.
"""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .sets import check_labels, spread

SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
BASES = ("", "ILSVRC/Data/CLS-LOC")  # the second as ImageNet is distributed
SUFFIXES = tuple(".png .jpg .jpeg .jfif .webp .avif .bmp .gif .ppm .pgm .tif .tiff".split())
HELD_OUT = 10  # a folder without split folders keeps one picture in ten for test
MAX_CLASSES = 1_000_000


def read_folder(folder: Path, split: str, names: Sequence[str], limit: int | None):
    """What `read_rows` tells, of the parquet files called as one of `names` in a folder or in one
    below it; else the names of a split's picture files, their labels (N,), and the classes.

    `datasets`' own reader takes the innermost folder for the class, and holds nothing out. Here the
    folders in `folder` are the classes. With `train/` beside `test/`, `validation/` or `val/` (also
    below ILSVRC/Data/CLS-LOC), those are the splits, and the classes are train's. Otherwise, in
    each class, the tenth of the pictures (at least one, if there are two) whose names have the
    smallest checksum is the test split: always the same, on every machine.
    """
    below = sorted(p for p in folder.iterdir() if p.is_dir())
    if files := parquet_files([folder, *below], names):
        return read_rows(read_parquet(files), names, folder.resolve().name, limit)
    parts: dict[str, Path] = {}
    for part, base, name in ((p, b, n) for p in SPLITS for b in BASES for n in SPLITS[p]):
        if any((folder / base / name).glob("*/")):  # a class "train" holds no folders
            parts.setdefault(part, folder / base / name)
    at = parts.get(split, folder)
    found = _pictures(at) if split in parts or not parts else {}
    classes = tuple(_pictures(parts["train"]) if "train" in parts else found)
    if unknown := sorted(found.keys() - set(classes)):
        raise ValueError(f"{at}: class {unknown[0]!r} is not in {parts['train']}: "
                         f"add it there, or remove it here")  # fmt: skip
    for name, files in found.items() if not parts else ():
        count = max(len(files) // HELD_OUT, min(len(files) - 1, 1))
        ranked = sorted(files, key=lambda f: hashlib.sha256(os.fsencode(f)).digest())
        found[name] = sorted(ranked[:count] if split == "test" else ranked[count:])
    pairs = [(os.path.join(at, f), i) for i, c in enumerate(classes) for f in found.get(c, ())]
    if not pairs:
        raise ValueError(
            f"{at}: no labelled pictures for split {split!r}; expected one sub-folder per class, "
            f"each with pictures ({' '.join(SUFFIXES)}), in {split}/ if there are split folders, "
            f"or files {split}-*.parquet"
        )
    files, labels = zip(*(pairs[i] for i in spread(len(pairs), limit)))
    check_labels(np.array(labels), classes, str(at))
    return list(files), np.array(labels), classes


def _pictures(folder: Path) -> dict[str, list[str]]:
    """Sorted files (below `folder`) by class, without what is hidden and linked folders in it."""
    found: dict[str, list[str]] = {}
    for top in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        for at, below, names in os.walk(top):
            below[:] = [name for name in below if name[0] != "."]
            names = [n for n in names if n.lower().endswith(SUFFIXES) and n[0] != "."]
            if names:
                here = os.path.relpath(at, folder)
                found.setdefault(top.name, []).extend(os.path.join(here, n) for n in names)
    return {name: sorted(files) for name, files in found.items()}


def parquet_files(folders: Iterable[Path], names: Sequence[str]) -> list[Path]:
    """The files `name.parquet` or `name-*.parquet` of the first folder and name that has any,
    sorted; ValueError when shards of `name-00000-of-00004` are missing."""
    for folder, name in itertools.product(folders, names):
        if files := sorted([*folder.glob(f"{name}.parquet"), *folder.glob(f"{name}-*.parquet")]):
            of = re.search(r"-of-0*(\d+)", files[0].name)
            if of and int(of[1]) != len(files):
                raise ValueError(
                    f"{folder}: {len(files)} of {of[1]} {name} files; fetch the others"
                )
            return files
    return []


def read_parquet(files: Sequence[Path], in_memory: bool = False) -> datasets.Dataset:
    """Parquet files as a table, mapped from `datasets`' cache on the disk or, `in_memory`, without
    one; ValueError naming the first damaged file."""
    count_rows(files)
    with _told(files[0].parent):
        if in_memory:
            return datasets.Dataset(pa.concat_tables(map(pq.read_table, files)))
        return datasets.Dataset.from_parquet([str(file) for file in files])


def count_rows(files: Sequence[Path]) -> int:
    """Rows of parquet files, by their metadata; ValueError naming the first damaged file."""
    total = 0
    for file in files:
        with _told(file):
            total += pq.read_metadata(file).num_rows
    return total


@contextlib.contextmanager
def _told(at: Path) -> Iterator[None]:
    """Turns what pyarrow and `datasets` raise on damaged bytes, nearly everything, into a line."""
    try:
        yield
    except Exception as error:
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{at}: not read as parquet ({reason}); fetch it again") from None


def read_hub(hub: str) -> datasets.DatasetDict:
    """The tables of a hub set by their names; one line when it cannot be had."""
    from huggingface_hub import HfApi, is_offline_mode

    try:
        if not is_offline_mode():  # offline, load_dataset looks into its cache by itself
            HfApi().dataset_info(hub, timeout=10)  # fails at once, load_dataset retries for long
        return datasets.load_dataset(hub)
    except Exception as error:  # no network, no account, terms not accepted, disk full, ...
        data = os.environ.get("VARMINI_DATA") or "not set"
        raise ValueError(
            f"{hub}: not under $VARMINI_DATA ({data}), and the hub's copy cannot be loaded "
            f"({type(error).__name__}); set VARMINI_DATA (or root) to a folder with its parquet "
            "files, or connect (for imagenet-1k also accept its terms and `hf auth login`)"
        ) from None


def find_columns(features: datasets.Features, source: str) -> tuple[str, str]:
    """The names of the picture column and of the label column of a table.

    The first is a `datasets.Image` or holds encoded bytes, the second is a `ClassLabel` or holds
    integers or texts. Of several, the one called image or img, label or labels is taken.
    """

    def find(what: str, kind: type, types: str, *names: str) -> str:
        found = [c for c, feature in features.items() if isinstance(feature, kind)]
        found = found or [c.name for c in features.arrow_schema if re.match(types, str(c.type))]
        found = [name for name in names if name in found][:1] or found
        if len(found) != 1:
            raise ValueError(
                f"{source}: {'no column' if not found else 'more than one column'} of {what} among "
                f"{', '.join(found or features)}; call it {names[0]!r} (`rows.rename_column`)"
            )
        return found[0]

    return (
        find("pictures", datasets.Image, "(large_)?binary|null|struct<.*bytes: ", "image", "img"),
        find("labels", datasets.ClassLabel, "u?int|(large_)?string", "label", "labels"),
    )


def read_rows(rows: Any, names: Sequence[str], source: str, limit: int | None = None):
    """Of a table, or of the first of `names` in a dictionary of tables (`limit`: so many rows): one
    of the pictures, still encoded; labels (N,) int64; the classes. They are those of a
    `ClassLabel`, the sorted texts, or the numbers up to the largest."""
    if isinstance(rows, dict):
        found = [name for name in names if name in rows]
        if not found:
            raise ValueError(f"{source}: split {names[0]!r} is not among {', '.join(rows)}")
        rows = rows[found[0]]
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(f"{source}: {type(rows).__name__}, expected a `datasets.Dataset` "
                         f"(`Dataset.from_generator` makes one of a stream)")  # fmt: skip
    image, label = find_columns(rows.features, source)
    column = rows.select_columns([label]).with_format("arrow")[:][label]  # nothing is decoded
    if column.null_count:
        raise ValueError(f"{source}: {column.null_count} rows without a label: filter them out")
    labels, classes = column.to_numpy(), getattr(rows.features[label], "names", None)
    if labels.dtype == object:
        classes, labels = np.unique(labels.astype(str), return_inverse=True)
    elif not classes:
        classes = range(min(int(labels.max(initial=-1)) + 1, MAX_CLASSES))
    labels, classes = labels.astype(np.int64), tuple(map(str, classes))
    check_labels(labels, classes, source)
    index = spread(len(rows), limit)
    pictures = rows.select_columns([image]).with_format(None)
    if isinstance(rows.features[image], datasets.Image):
        pictures = pictures.cast_column(image, datasets.Image(decode=False))  # our workers decode
    return pictures.select(index), labels[index], classes
