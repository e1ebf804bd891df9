"""Folders of pictures: one folder a class, with or without split folders, and ILSVRC's layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..runtime.tables import read_cells
from .sources import HELD_OUT, SPLITS, SUFFIXES

ILSVRC = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
SOLUTION = "LOC_val_solution.csv"  # the labels of ILSVRC's flat val folder, as it is distributed


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's does, and is not hidden."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _entries(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    for path in found:  # they become class names, in JSON, pictures and on the terminal
        if not path.name.isprintable():
            raise ValueError(f"{folder}: the folder name {path.name!r} is no text: rename it")
    return found


def _pictures(folder: Path) -> Iterator[str]:
    for at, _, names in os.walk(folder):
        yield from (os.path.join(at, name) for name in names if is_picture(name))


def class_folders(folder: Path) -> dict[str, list[str]]:
    """Sorted picture files by class, one class per sub-folder (hidden and empty ones left out).

    Raises:
        ValueError: when there are none, pictures without class folders, or a name is no text.
    """
    found = {entry.name: sorted(_pictures(entry)) for entry in _entries(folder)}
    found = {name: files for name, files in found.items() if files}
    if not found:
        loose = any(is_picture(p.name) for p in folder.iterdir())
        what = "its pictures are not labelled" if loose else "no pictures found"
        raise ValueError(f"{folder}: {what}; expected one sub-folder of pictures per class")
    return found


def solved(part: Path, table: Path) -> dict[str, list[str]]:
    """The files of a flat folder by class, as the table of ILSVRC's validation labels says.

    Raises:
        ValueError: when the table cannot be read or names none of the pictures.
    """
    try:
        rows = {r["ImageId"]: r["PredictionString"].split()[0] for r in read_cells(table)}
    except (ValueError, KeyError, IndexError):
        raise ValueError(
            f"{table}: expected the columns ImageId and PredictionString, the class first"
        ) from None
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(part)):
        stem = os.path.splitext(name)[0]
        if is_picture(name) and stem in rows:
            found.setdefault(rows[stem], []).append(str(part / name))
    if not found:
        raise ValueError(f"{table}: names none of the pictures in {part}")
    return dict(sorted(found.items()))


def held_out(files: list[str], folder: Path, test: bool) -> list[str]:
    """The test tenth of a class (smallest checksums of their names), or the rest, sorted."""

    def key(file: str) -> bytes:
        return hashlib.sha256(os.fsencode(Path(file).relative_to(folder).as_posix())).digest()

    count = max(len(files) // HELD_OUT, 1) if len(files) > 1 else 0
    chosen = set(sorted(files, key=key)[:count])
    return [f for f in files if (f in chosen) == test]


def _part(folder: Path, split: str) -> Path | None:
    """The folder of a split, with class folders or ILSVRC's table; None when there is none."""
    for base in (folder / place for place in ILSVRC):
        for name in SPLITS[split]:
            part = base / name
            if part.is_dir() and (any(part.glob("*/")) or _table(folder, part)):
                return part
    return None


def _table(folder: Path, part: Path) -> Path | None:
    if part.name != "val":
        return None
    places = (folder, part, part.parent)
    return next((p / SOLUTION for p in places if (p / SOLUTION).is_file()), None)


def class_names(folder: Path) -> tuple[str, ...]:
    """The names of the sub-folders with pictures, sorted; opens each only up to its first.

    Raises:
        ValueError: when a name is no printable text.
    """
    place = _part(folder, "train") or folder
    return tuple(p.name for p in _entries(place) if next(_pictures(p), None))


def split_files(folder: Path, split: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """The (file, label) pairs of a split, and the classes.

    With `train/` beside `test/`, `val/` or `validation/` (also below ILSVRC/Data/CLS-LOC), those
    are the splits, and the classes are train's. Otherwise, in each class, the tenth of the
    pictures (at least one, if there are two) whose names have the smallest checksum is the test
    split: always the same, on every machine.

    Raises:
        ValueError: when the split has no labelled pictures, or a class that train has not.
    """
    parts = {s: _part(folder, s) for s in SPLITS}  # a class called "train" holds no folders
    if any(parts.values()):
        part = parts[split]
        if part is None:
            wanted = " or ".join(n + "/" for n in SPLITS[split])
            flat = next((folder / p / n for p in ILSVRC for n in SPLITS[split]
                         if (folder / p / n).is_dir()), None)  # fmt: skip
            if flat:
                raise ValueError(
                    f"{flat}: its pictures are not labelled; expected one sub-folder of pictures "
                    f"per class, or ILSVRC's {SOLUTION} in {folder}"
                )
            raise ValueError(f"{folder}: no {wanted} with class folders")
        found = class_folders(part) if any(part.glob("*/")) else solved(part, _table(folder, part))
        classes = class_names(folder) if parts["train"] else tuple(found)
        if unknown := sorted(found.keys() - set(classes)):
            raise ValueError(f"{part}: class {unknown[0]!r} is not in {parts['train']}")
    else:
        found = class_folders(folder)
        classes = tuple(found)
        found = {c: held_out(found[c], folder, split == "test") for c in classes}
    pairs = [(f, i) for i, c in enumerate(classes) for f in found.get(c, ())]
    if not pairs:
        raise ValueError(f"{folder}: no pictures for split {split!r}; add more to each class")
    return pairs, classes
