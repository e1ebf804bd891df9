"""`load_images`: a set of labelled images by its name, its folder, or as a `datasets` object."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ..runtime.pretrained import ASSETS as EMBEDDED
from .pictures import decode, to_tensor
from .sets import ImageSet, LazyImages

KNOWN = {  # a folder below EMBEDDED; or one below root or $VARMINI_DATA, and what the hub calls it
    "fashion-subset": ("fashion_mnist_subset", None),
    "cifar10-subset": ("cifar10_subset", None),
    "fashion": ("fashion_mnist/fashion_mnist", "zalando-datasets/fashion_mnist"),
    "cifar10": ("cifar10/plain_text", "uoft-cs/cifar10"),
    "imagenet": ("imagenet-1k", "imagenet-1k"),
}
LAZY = "imagenet"  # of the known sets, the one that memory does not hold


def load_images(
    name: Any, split: str = "train", *, size: int | None = None, channels: int | None = None,
    root: str | Path | None = None, limit: int | None = None,
) -> ImageSet | LazyImages:  # fmt: skip
    """A set of labelled images.

    Args:
        name: "fashion-subset" or "cifar10-subset", which are in the package; "fashion", "cifar10"
            or "imagenet", all of it: below root or $VARMINI_DATA, else from the hub; a folder with
            one folder of pictures per class, or with parquet files; a hub id "user/name"; or a
            `datasets.Dataset` or a dictionary of them, with columns `image` and `label`.
        split: "train" or "test" (the validation part of ImageNet, and where there is no other).
        size: side in pixels; by default 32 for the small sets (Fashion-MNIST's 28 are padded with
            background, never stretched), 256 for ImageNet, else the first picture's.
        channels: 1 or 3, by default the set's own.
        root: folder with the full sets, before $VARMINI_DATA and the hub.
        limit: that many images, evenly spaced over the set.

    Returns:
        Fashion-MNIST and CIFAR-10 as bytes in memory, all else decoded when asked for. Every set
        has `name`, `classes`, `size`, `channels`, and a `fingerprint` of its content.

    Raises:
        ValueError: in one line, for what cannot be found, read, or told apart.
    """
    from . import sources

    if split not in sources.SPLITS:
        raise ValueError(f"split {split!r}: expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels {channels}: expected 1 or 3")
    for key, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{key} {value}: expected at least 1")
    parts, text = sources.SPLITS[split], str(name) if isinstance(name, str | os.PathLike) else ""
    known, title = text in KNOWN, text
    if isinstance(name, sources.datasets.Dataset | dict):
        rows, title = name, "dataset"
    elif known:
        rows = find_folder(text, root)
        if root and not rows:
            raise ValueError(f"{text}: no folder {KNOWN[text][0]} in {root}")
        rows = rows or sources.read_hub(KNOWN[text][1])
    elif text and Path(text).is_dir():
        rows = Path(text).resolve()
        title = rows.name
    elif re.fullmatch("[^./~][^/]*/[^/]*", text):
        rows = sources.read_hub(text)
    else:
        raise ValueError(
            f"{text or type(name).__name__}: expected one of {', '.join(KNOWN)}, a folder, a hub "
            "id user/name, or an object of `datasets` (`Dataset.from_dict` makes one of lists, "
            "`from_generator` one of a stream)"
        )
    if text == LAZY:
        size, channels, parts = size or 256, channels or 3, parts[::-1]  # its test has no labels
    in_memory = known and text != LAZY
    if isinstance(rows, Path):
        files = sources.parquet_files(rows, parts)
        rows = sources.read_parquet(files, in_memory) if files else sources.read_folder(rows, split)
    found = sources.read_rows(rows, parts, title, limit)
    if in_memory:
        return _in_memory(*found, title, size, channels)
    return LazyImages(*found, title, split == "train", size, channels)


def _in_memory(cells: Any, labels, classes, name: str, size, channels) -> ImageSet:
    """Pictures decoded once: those of 28 pixels are padded to 32."""
    images, expected = [], (32, 32, "RGB") if name.startswith("cifar10") else (28, 28, "L")
    mode = {None: expected[2], 1: "L", 3: "RGB"}[channels]
    for row, cell in enumerate(cells[:][cells.column_names[0]]):
        at = f"{name}, row {row}"
        picture = decode(cell, at)
        if (found := (*picture.size, picture.mode)) != expected:
            raise ValueError(f"{at}: a picture {found}, expected {expected}; fetch it again")
        picture = ImageOps.expand(picture, (32 - picture.width) // 2).convert(mode)
        if size:
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        images.append(to_tensor(picture))
    return ImageSet(torch.stack(images), torch.from_numpy(labels), classes, name)


def fitted(name: str, split: str, image_size: tuple[int, int], channels: int):
    """`load_images` for a model of that size: folders are resized, named sets come as they are."""
    if name in KNOWN and name != LAZY:
        return load_images(name, split)
    return load_images(name, split, size=image_size[0], channels=channels)


def class_names(name: str | Path) -> tuple[str, ...]:
    """The names of a set's classes; the hub is never asked, so they are empty for what is there."""
    name = f"{name}-subset" if f"{name}-subset" in KNOWN else name
    if Path(name).is_dir() or (name in KNOWN and find_folder(name)):
        return load_images(name, limit=1, size=1, channels=3).classes
    return ()


def find_folder(name: str, root: str | Path | None = None) -> Path | None:
    """The folder of a known set: in the package, or below root or $VARMINI_DATA; else None."""
    folder, hub = KNOWN[name]
    base = Path(root or os.environ.get("VARMINI_DATA") or os.devnull) if hub else EMBEDDED
    return next((p for p in (base / folder, base / name) if p.is_dir()), None)
