"""What a table of `datasets` must hold: one column of pictures and one of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
MAX_CLASSES = 1_000_000


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The files `split.parquet` or `split-*.parquet` in a folder, sorted.

    Raises:
        ValueError: when shards of `split-00000-of-00004` are missing.
    """
    files = sorted([*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")])
    shards = re.search(r"-of-0*(\d+)", files[0].name) if files else None
    if shards and int(shards[1]) != len(files):
        raise ValueError(f"{folder}: {len(files)} of {shards[1]} {split} files; fetch the others")
    return files


@contextmanager
def _one_line(source: Path):
    """Turns whatever the readers of parquet raise about a damaged file into one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"{source}: not read as parquet ({reason}); fetch it again") from None


def count_rows(files: Iterable[Path]) -> int:
    """Rows of parquet files, from their footers; ValueError for the first damaged one."""
    import pyarrow.parquet as pq

    total = 0
    for file in files:
        with _one_line(file):
            total += pq.read_metadata(file).num_rows
    return total


def read_parquet(files: Sequence[Path], in_memory: bool = False):
    """Parquet files as an object of `datasets`.

    in_memory: without its cache on the disk, from which large ones are mapped.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    count_rows(files)
    with _one_line(files[0].parent):
        if in_memory:
            return datasets.Dataset(pa.concat_tables(map(pq.read_table, files)))
        names = [str(file) for file in files]
        return datasets.load_dataset("parquet", data_files=names, split="train")


def find_columns(features, source: str | Path) -> tuple[str, str]:
    """The names of the picture column and of the label column in `datasets.Features`.

    The first is a `datasets.Image` or holds encoded bytes, the second is a `ClassLabel` or holds
    integers or texts. Of several, the one called image or img, label or labels is taken.

    Raises:
        ValueError: when there is none, or no telling which.
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


def read_column(rows, name: str):
    """A column as Arrow holds it: nothing is decoded."""
    return rows.select_columns([name]).with_format("arrow")[:][name]


def read_labels(rows, label: str, source: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64 and the names of the classes: those of the `ClassLabel`, the sorted texts
    in the column, or the numbers up to the largest label.

    Raises:
        ValueError: for a row without a label, or one outside the classes.
    """
    column, classes = read_column(rows, label), getattr(rows.features[label], "names", None)
    if column.null_count:
        raise ValueError(f"{source}: {column.null_count} rows without a label")
    labels = column.to_numpy()
    if labels.dtype == object:
        classes, labels = np.unique(labels.astype(str), return_inverse=True)
        classes = classes.tolist()
    if not classes:
        if (largest := int(labels.max(initial=-1))) >= MAX_CLASSES:
            raise ValueError(f"{source}: a label is {largest}, expected less than {MAX_CLASSES}")
        classes = map(str, range(largest + 1))
    classes = check_names(classes, source)
    check_labels(labels, classes, source)
    return labels.astype(np.int64), classes


def check_names(names: Iterable[str], source: str | Path) -> tuple[str, ...]:
    """Class names as they were: printable text, as they go into pictures and to the terminal."""
    names = tuple(names)
    for name in names:
        if not name.isprintable():
            raise ValueError(f"{source}: the class name {name!r} is no text: rename it")
    return names


def check_labels(labels: np.ndarray, classes: Sequence[str], source: str | Path) -> None:
    """ValueError for an empty set, or for the first label outside the classes."""
    if not len(labels):
        raise ValueError(f"{source}: holds no images")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"{source}: row {wrong[0]} has label {labels[wrong[0]]}, expected 0 to "
            f"{len(classes) - 1} (-1 marks a part without labels: take another part)"
        )


def encoded(cell: dict | bytes | None) -> bytes | str:
    """The encoded picture in a cell of a picture column, or the name of its file."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return cell or b""
