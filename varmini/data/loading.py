"""`load_images`: a set of labelled images by its name, its folder, or as a `datasets` object."""

import os
import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from ..runtime.pretrained import ASSETS as EMBEDDED
from .pictures import decode, to_tensor
from .sets import ImageSet, LazyImages, spread

Known = namedtuple("Known", "hub config shape padding")  # what is held in memory; config: a folder
KNOWN = {
    "fashion": Known("zalando-datasets/fashion_mnist", "fashion_mnist", (1, 28, 28), 2),
    "cifar10": Known("uoft-cs/cifar10", "plain_text", (3, 32, 32), 0),
}
SUBSETS = {"fashion-subset": "fashion_mnist_subset", "cifar10-subset": "cifar10_subset"}
NAMES = (*SUBSETS, *KNOWN, "imagenet")


def load_images(
    name: Any, split: str = "train", *, size: int | None = None, channels: int | None = None,
    root: str | Path | None = None, limit: int | None = None,
) -> ImageSet | LazyImages:  # fmt: skip
    """A set of labelled images.

    Args:
        name: "fashion-subset" or "cifar10-subset", which are in the package; "fashion", "cifar10"
            or "imagenet", all of it: below root or $VARMINI_DATA, else from the hub; a folder with
            one folder of pictures per class, or with parquet files; a hub id "user/name"; or a
            `datasets.Dataset` or a dictionary of them, with a column of pictures and one of labels.
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
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"root {root}: no such folder; name one that holds the full sets")
    parts, text = sources.SPLITS[split], str(name) if isinstance(name, str | os.PathLike) else ""
    if isinstance(name, sources.datasets.Dataset | dict):
        text, rows = "dataset", name
    elif text in SUBSETS or text in KNOWN:
        return _in_memory(text, split, root, limit, size, channels)
    elif text == "imagenet":
        size, channels, parts = size or 256, channels or 3, parts[::-1]  # its test has no labels
        rows = root or imagenet_folder() or sources.read_hub("imagenet-1k")
    elif text and Path(text).is_dir():
        rows = text
    elif re.fullmatch("[^./~][^/]*/[^/]*", text):
        rows = sources.read_hub(text)
    else:
        raise ValueError(
            f"{text or type(name).__name__}: expected one of {', '.join(NAMES)}, a folder, a hub "
            "id user/name, or an object of `datasets` (`Dataset.from_dict` makes one of lists, "
            "`from_generator` one of a stream)"
        )
    if isinstance(rows, str | Path):
        text = Path(rows).resolve().name
        found = sources.read_folder(Path(rows), split, parts, limit)
    else:
        found = sources.read_rows(rows, parts, text, limit)
    return LazyImages(*found, text, split == "train", size, channels)


def _in_memory(
    name: str, split: str, root: str | Path | None, limit: int | None, size: int | None,
    channels: int | None,
) -> ImageSet:  # fmt: skip
    """An embedded subset, or a full set from parquet files or the hub, as bytes in memory."""
    from . import sources

    hub, config, shape, padding = KNOWN[name.removesuffix("-subset")]
    files = find_parquet(name, split, root)
    if root and not files:
        raise ValueError(f"{name}: no {hub.split('/')[1]}/{config}/{split}-*.parquet under {root}")
    source = f"{files[0].parent if files else name}, {split}"
    rows = sources.read_parquet(files, in_memory=True) if files else sources.read_hub(hub)[split]
    cells, labels, classes = sources.read_rows(rows, [split], source, limit)
    pictures, mode = [], "L" if (channels or shape[0]) == 1 else "RGB"
    for row, cell in zip(spread(len(rows), limit), cells[:][cells.column_names[0]]):
        at = f"{source} row {row}"
        picture = decode(cell, at)
        if (found := (len(picture.getbands()), *picture.size)) != shape:  # they are square
            raise ValueError(f"{at}: a picture {found}, expected {shape} in {hub}; fetch it again")
        picture = ImageOps.expand(picture, padding).convert(mode)
        if size:
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(to_tensor(picture))
    return ImageSet(torch.stack(pictures), torch.from_numpy(labels), classes, name)


def fitted(name: str, split: str, image_size: tuple[int, int], channels: int):
    """`load_images` for a model of that size: folders are resized, named sets come as they are."""
    if name in SUBSETS or name in KNOWN:
        return load_images(name, split)
    return load_images(name, split, size=image_size[0], channels=channels)


def class_names(name: str | Path) -> tuple[str, ...]:
    """The names of a set's classes; the hub is never asked, so they are empty for what is there."""
    name = f"{name}-subset" if name in KNOWN else name
    if name in SUBSETS or Path(name).is_dir() or (name == "imagenet" and imagenet_folder()):
        return load_images(name, limit=1, size=1, channels=3).classes
    return ()


def find_parquet(name: str, split: str, root: str | Path | None = None) -> list[Path]:
    """The parquet files of a small set: embedded, or under root or $VARMINI_DATA; else none."""
    from .sources import parquet_files

    if name in SUBSETS:
        return parquet_files([EMBEDDED / SUBSETS[name]], [split])
    hub, config, *_ = KNOWN[name]
    base, own = Path(root or os.environ.get("VARMINI_DATA") or os.devnull), hub.split("/")[1]
    below = (f"{own}/{config}", own, f"{hub}/{config}", config, ".")
    return parquet_files([base / folder for folder in below], [split])


def imagenet_folder() -> Path | None:
    """ImageNet below $VARMINI_DATA, where it is there."""
    data = Path(os.environ.get("VARMINI_DATA") or os.devnull)
    return next((p for p in (data / "imagenet-1k", data / "imagenet") if p.is_dir()), None)
