"""`load_images`: a set of labelled images by its name, its folder, or as an object of `datasets`.

fashion-subset, cifar10-subset    in the package (data/ of the repository), no download
fashion, cifar10                  all of them: parquet files under root= or $VARMINI_DATA,
                                  otherwise the hub
imagenet                          the same for the hub's imagenet-1k, also as class folders
a folder                          one folder of pictures per class, or parquet files
user/name                         any set on the hub
"""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..runtime.pretrained import ASSETS as EMBEDDED
from . import sources
from .pictures import decode, to_tensor
from .sets import ImageSet, LazyImages

if TYPE_CHECKING:
    import datasets

Known = namedtuple("Known", "hub config shape padding")  # what is held in memory; config: a folder
KNOWN = {
    "fashion": Known("zalando-datasets/fashion_mnist", "fashion_mnist", (1, 28, 28), 2),
    "cifar10": Known("uoft-cs/cifar10", "plain_text", (3, 32, 32), 0),
}
SUBSETS = {"fashion-subset": "fashion_mnist_subset", "cifar10-subset": "cifar10_subset"}
IMAGENET = "imagenet"
NAMES = (*SUBSETS, *KNOWN, IMAGENET)


def load_images(
    name: str | Path | datasets.Dataset | datasets.DatasetDict,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    root: str | Path | None = None,
    limit: int | None = None,
) -> ImageSet | LazyImages:
    """A set of labelled images: a name (`NAMES`), a folder, a hub id, or an object of `datasets`.

    Args:
        name: in an object, one column holds pictures, another integers or texts (`find_columns`).
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
    if split not in sources.SPLITS:
        raise ValueError(f"split {split!r}: expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels {channels}: expected 1 or 3")
    for key, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{key} {value}: expected at least 1")
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"root {root}: no such folder")
    view = {"size": size, "channels": channels, "limit": limit}
    if not isinstance(name, str | os.PathLike):
        return _from_rows(name, "dataset", split, **view)
    if name in SUBSETS or name in KNOWN:
        return _in_memory(str(name), split, root, **view)
    if name == IMAGENET:
        view |= {"size": size or 256, "channels": channels or 3}
        if folder := root or imagenet_folder():  # its own test part has no labels
            return _from_folder(Path(folder), split, sources.SPLITS[split][::-1], **view)
        rows = _from_hub("imagenet-1k")["train" if split == "train" else "validation"]
        return _from_rows(rows, IMAGENET, split, **view)
    if Path(name).is_dir():
        return _from_folder(Path(name), split, sources.SPLITS[split], **view)
    if str(name).count("/") == 1 and not str(name).startswith(("/", ".", "~")):
        return _from_rows(_from_hub(str(name)), str(name), split, **view)
    raise ValueError(f"{name}: neither a folder, a hub id user/name, nor one of {', '.join(NAMES)}")


def fitted(name: str, split: str, image_size: tuple[int, int], channels: int):
    """`load_images` for a model of that size: folders are resized, named sets come as they are."""
    if name in SUBSETS or name in KNOWN:
        return load_images(name, split)
    return load_images(name, split, size=image_size[0], channels=channels)


def class_names(name: str | Path) -> tuple[str, ...]:
    """The names of a set's classes; the hub is never asked, so they are empty for what is there."""
    if f"{name}-subset" in SUBSETS:
        name = f"{name}-subset"
    if name in SUBSETS or Path(name).is_dir() or (name == IMAGENET and imagenet_folder()):
        return load_images(name, limit=1, size=1, channels=3).classes
    return ()


def find_parquet(name: str, split: str, root: str | Path | None = None) -> list[Path]:
    """The parquet files of a small set: embedded, or under root or $VARMINI_DATA; else none."""
    if name in SUBSETS:
        return sources.parquet_files(EMBEDDED / SUBSETS[name], split)
    hub, config, *_ = KNOWN[name]
    own = hub.split("/")[1]
    base = Path(root or os.environ.get("VARMINI_DATA") or os.devnull)
    at = (base / below for below in (f"{own}/{config}", own, f"{hub}/{config}", config, "."))
    return next(filter(None, (sources.parquet_files(folder, split) for folder in at)), [])


def imagenet_folder() -> Path | None:
    """ImageNet below $VARMINI_DATA, where it is there."""
    data = Path(os.environ.get("VARMINI_DATA") or os.devnull)
    return next((p for p in (data / "imagenet-1k", data / "imagenet") if p.is_dir()), None)


def _in_memory(
    name: str, split: str, root: str | Path | None, size: int | None, channels: int | None,
    limit: int | None,
) -> ImageSet:  # fmt: skip
    """An embedded subset, or a full set from parquet files or the hub, as bytes in memory."""
    from PIL import Image, ImageOps

    known = KNOWN[name.removesuffix("-subset")]
    files = find_parquet(name, split, root)
    if root and not files:
        own = f"{known.hub.split('/')[1]}/{known.config}"
        raise ValueError(f"{name}: no {own}/{split}-*.parquet under {root}")
    rows = sources.read_parquet(files, in_memory=True) if files else _from_hub(known.hub)[split]
    source = f"{files[0].parent if files else name}, {split}"
    cells, labels, classes = sources.read_rows(rows, source, limit)
    pictures = []
    for row, cell in zip(sources.spread(len(rows), limit), cells[:][cells.column_names[0]]):
        at = f"{source} row {row}"
        picture = decode(sources.encoded(cell), at)
        if (len(picture.getbands()), *picture.size) != known.shape:  # they are square
            found = f"picture {picture.size}, mode {picture.mode}"
            raise ValueError(f"{at}: {found}; expected {known.hub} with {known.shape}")
        picture = ImageOps.expand(picture, known.padding)
        picture = picture.convert({1: "L", 3: "RGB"}.get(channels, picture.mode))
        if size:
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        pictures.append(to_tensor(picture))
    return ImageSet(torch.stack(pictures), torch.from_numpy(labels), classes, name)


def _from_folder(folder: Path, split: str, parts: tuple[str, ...], **view) -> LazyImages:
    """A folder of parquet files, or with one in it, or of pictures."""
    name = folder.resolve().name
    for base in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        for part in parts:
            if files := sources.parquet_files(base, part):
                return _from_rows(sources.read_parquet(files), name, split, **view)
        if any(base.glob("*.parquet")):
            raise ValueError(f"{base}: none of its parquet files is called {' or '.join(parts)}-*")
    found = sources.split_files(folder, split, view.pop("limit"))
    return LazyImages(*found, name, split == "train", **view)


def _from_rows(rows, name: str, split: str, limit: int | None, **view) -> LazyImages:
    """A set from a `datasets.Dataset`, or a dictionary with one a split."""
    import datasets

    if isinstance(rows, dict):
        part = next((part for part in sources.SPLITS[split] if part in rows), None)
        if part is None:
            raise ValueError(f"{name}: split {split!r} is not among {', '.join(rows)}")
        rows = rows[part]
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(
            f"{type(rows).__name__}: expected a name, a folder, a hub id, or an object of "
            "`datasets` (`Dataset.from_dict` makes one of lists, `from_generator` one of a stream)"
        )
    return LazyImages(*sources.read_rows(rows, name, limit), name, split == "train", **view)


def _from_hub(hub: str):
    """The parts of a hub set by their names; one line when it cannot be had."""
    import datasets
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
            "files, or connect to the network (for imagenet-1k also accept its terms and "
            "`hf auth login`)"
        ) from None
