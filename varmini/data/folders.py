"""Folders of pictures: one folder a class, with or without split folders.

`datasets`' own reader takes the innermost folder for the class, and holds no tenth out.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .tables import SPLITS, check_names

SUFFIXES = ".png .jpg .jpeg .jfif .webp .avif .bmp .gif .ppm .pgm .tif .tiff".split()
HELD_OUT = 10  # a folder without split folders keeps one picture in ten for test
BASES = ("", "ILSVRC/Data/CLS-LOC")  # the second as ImageNet is distributed


def split_files(folder: Path, split: str) -> tuple[list[str], list[int], tuple[str, ...]]:
    """The files of a split, their labels, and the classes.

    With `train/` beside `test/`, `validation/` or `val/` (also below ILSVRC/Data/CLS-LOC), those
    are the splits, and the classes are train's. Otherwise, in each class, the tenth of the
    pictures (at least one, if there are two) whose names have the smallest checksum is the test
    split: always the same, on every machine.

    Raises:
        ValueError: when the split has no labelled pictures, or a class that train has not.
    """
    parts = {name: _split_folder(folder, name) for name in SPLITS}
    whole = not any(parts.values())
    part = folder if whole else parts[split]
    if part is None:
        wanted = " or ".join(name + "/" for name in SPLITS[split])
        raise ValueError(f"{folder}: no {wanted} with one sub-folder of pictures per class")
    found = _pictures(part)
    classes = tuple(_pictures(parts["train"]) if parts["train"] else found)
    if unknown := sorted(found.keys() - set(classes)):
        raise ValueError(f"{part}: class {unknown[0]!r} is not in {parts['train']}")
    if whole:
        found = {c: _tenth(files, folder, split == "test") for c, files in found.items()}
    pairs = [(f, label) for label, c in enumerate(classes) for f in found.get(c, ())]
    if not pairs:
        loose = any(_is_picture(p.name) for p in folder.iterdir())
        what = "its pictures are not labelled" if loose else f"no pictures for split {split!r}"
        raise ValueError(
            f"{part}: {what}; expected one sub-folder per class, each with pictures "
            f"({' '.join(SUFFIXES)})"
        )
    files, labels = map(list, zip(*pairs))
    return files, labels, classes


def _split_folder(folder: Path, split: str) -> Path | None:
    parts = (folder / base / name for base in BASES for name in SPLITS[split])
    return next((p for p in parts if any(p.glob("*/"))), None)  # a class "train" holds no folders


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _pictures(folder: Path) -> dict[str, list[str]]:
    """Sorted files by class; what is hidden, and linked folders in a class, are left out."""
    found: dict[str, list[str]] = {}
    for top in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for at, below, names in os.walk(top):
            below[:] = [name for name in below if not name.startswith(".")]
            if files := [os.path.join(at, name) for name in names if _is_picture(name)]:
                found.setdefault(top.name, []).extend(files)
    check_names(found, folder)
    return {name: sorted(files) for name, files in found.items()}


def _tenth(files: list[str], folder: Path, test: bool) -> list[str]:
    """The test tenth of a class (smallest checksums of their names), or what it leaves, sorted."""

    def key(file: str) -> bytes:
        return hashlib.sha256(os.fsencode(Path(file).relative_to(folder).as_posix())).digest()

    count = max(len(files) // HELD_OUT, 1) if len(files) > 1 else 0
    chosen = set(sorted(files, key=key)[:count])
    return [f for f in files if (f in chosen) == test]
