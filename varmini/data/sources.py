"""What folders of pictures, parquet files and tables of `datasets` hold: pictures, labels, classes.

`datasets` takes 0.7 seconds to load, so this file is imported where it is used.
"""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .sets import spread

SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
SUFFIXES = tuple(".png .jpg .jpeg .jfif .webp .avif .bmp .gif .ppm .pgm .tif .tiff".split())
HELD_OUT = 10  # a folder without split folders keeps one picture in ten for test
MAX_CLASSES = 1_000_000


def read_folder(folder: Path, split: str) -> datasets.Dataset:
    """The picture files of a split as a table, a row a file; hidden ones are left out.

    `datasets`' own reader takes minutes for 20,000 files, and holds nothing out. The folders in
    `folder` are the classes. With `train/` beside `test/`, `validation/` or `val/`, those are the
    splits, and the classes are train's. Otherwise, in each class, the tenth of the pictures (at
    least one, if there are two) whose names have the smallest checksum is the test split: always
    the same, on every machine. ValueError when there is none, or a class that is not in train.
    """
    names = {p: n for p in SPLITS for n in SPLITS[p][::-1] if any((folder / n).glob("*/"))}
    at = {part: folder / name for part, name in names.items()} or dict.fromkeys(SPLITS, folder)
    found = {part: _pictures(path) for part, path in at.items()}
    files = found.get(split, {})
    classes = set(found.get("train", files).values())
    if not names:
        held = set()
        for _, some in itertools.groupby(files, files.get):
            some = sorted(some, key=lambda f: hashlib.sha256(os.fsencode(f)).digest())
            held.update(some[: max(len(some) // HELD_OUT, min(len(some) - 1, 1))])
        files = {f: name for f, name in files.items() if (f in held) == (split == "test")}
    if not files:
        raise ValueError(
            f"{at.get(split, folder)}: no labelled pictures for split {split!r}; expected one "
            f"sub-folder per class, each with pictures ({' '.join(SUFFIXES)}), in {split}/ if "
            f"there are split folders, or files {split}-*.parquet"
        )
    paths = [os.path.join(at[split], file) for file in files]
    changed = [os.lstat(path).st_mtime_ns for path in paths]  # for the table's fingerprint
    columns = {"image": paths, "label": list(files.values()), "changed": changed}
    label = datasets.ClassLabel(names=sorted(classes))
    kinds = {"image": datasets.Image(), "label": label, "changed": datasets.Value("int64")}
    with _told(at[split], "names have to be UTF-8, and train has to have all classes"):
        return datasets.Dataset.from_dict(columns, datasets.Features(kinds))


def _pictures(folder: Path) -> dict[str, str]:
    """The classes of the pictures in the folders of a folder, by their paths relative to it."""
    found = []
    for top in folder.glob("[!.]*/"):
        for at, below, names in os.walk(top):  # which follows no links: they may go round
            below[:] = [name for name in below if name[0] != "."]
            names = [n for n in names if n[0] != "." and n.lower().endswith(SUFFIXES)]
            found += [os.path.join(os.path.relpath(at, folder), name) for name in names]
    return {file: file.split(os.sep)[0] for file in sorted(found)}


def parquet_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files `name.parquet` or `name-*.parquet`, sorted, of the first name that has any in a
    folder or in one below it; ValueError when shards of `name-00000-of-00004` are missing."""
    for at, name in itertools.product([folder, *sorted(folder.glob("*/"))], names):
        if files := sorted(at.glob(f"{name}[.-]*parquet")):
            of = re.search(r"-of-0*(\d+)", files[0].name)
            if of and int(of[1]) != len(files):
                raise ValueError(f"{at}: {len(files)} of {of[1]} {name} files; fetch all of them")
            return files
    return []


def read_parquet(files: Sequence[Path], in_memory: bool = False) -> datasets.Dataset:
    """Parquet files as a table, mapped from `datasets`' cache on the disk or, `in_memory`, without
    one; ValueError naming what is damaged."""
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
def _told(source: str | Path, mend: str = "fetch it again") -> Iterator[None]:
    """Turns whatever pyarrow and `datasets` raise on odd or damaged data into one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: cannot be read ({reason}); {mend}") from None


def read_hub(hub: str) -> datasets.DatasetDict:
    """The tables of a hub set by their names; one line when it cannot be had."""
    from huggingface_hub import HfApi, is_offline_mode

    try:
        if not is_offline_mode():  # offline, load_dataset looks into its cache by itself
            HfApi().dataset_info(hub, timeout=10)  # fails at once, load_dataset retries for long
        return datasets.load_dataset(hub)
    except Exception as error:  # no network, no account, terms not accepted, disk full, ...
        raise ValueError(
            f"{hub}: not under $VARMINI_DATA ({os.environ.get('VARMINI_DATA') or 'not set'}), and "
            f"the hub's copy cannot be loaded ({type(error).__name__}); set VARMINI_DATA (or root) "
            "to a folder with its parquet files, or connect (for imagenet-1k also accept its terms "
            "and `hf auth login`)"
        ) from None


def find_columns(columns: Sequence[str], source: str) -> list[str]:
    """The names of the columns of pictures and of labels."""
    known = ("image", "img"), ("label", "labels")
    found = [name for names in known for name in names if name in columns]
    if len(found) != 2:
        raise ValueError(f"{source}: its columns are {', '.join(columns)}; call that of the "
                         f"pictures 'image', of the labels 'label' (`rename_column`)")  # fmt: skip
    return found


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
    image, label = find_columns(rows.column_names, source)
    column = rows.select_columns([label]).with_format("arrow")[:][label]  # nothing is decoded
    if column.null_count:
        raise ValueError(f"{source}: {column.null_count} rows without a label: filter them out")
    classes = getattr(rows.features[label], "names", None)
    with _told(source, "labels are whole numbers or texts, pictures encoded or arrays"):
        if "string" in str(column.type):
            classes, labels = np.unique(column.to_numpy().astype(str), return_inverse=True)
        else:
            labels = column.cast(pa.int64()).to_numpy()
        pictures = rows.select_columns([image]).with_format(None)
        pictures = pictures.cast_column(image, datasets.Image(decode=False))  # our workers decode
    if classes is None:
        classes = range(min(int(labels.max(initial=-1)) + 1, MAX_CLASSES))
    index = spread(len(rows), limit)
    return pictures.select(index), labels[index], tuple(map(str, classes))
