"""Images and labels: two embedded subsets, two full sets, ImageNet, and any folder of pictures.

    fashion-subset, cifar10-subset    inside the repository (data/), nothing to download
    fashion, cifar10                  all of them: parquet files under root= or $VARMINI_DATA,
                                      otherwise the hub through `datasets`
    imagenet                          hub id imagenet-1k, or root= a local copy: parquet files, or
                                      class folders, also as ILSVRC is distributed
    imagenet-stream                   the same, read as a stream instead of copied to the disk first
    a folder                          one folder of pictures per class, or parquet files

Small sets are held in memory as bytes (`ImageSet`); large ones are decoded one by one when asked
for (`FolderImages`, `ParquetImages`). Inside varmini an image is a float tensor in [-1, 1];
`batches` is the one loop over any of them, and it can start in the middle.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from .batching import batches, check_batch_size, in_order
from .folders import class_names as folder_class_names
from .lazy import FolderImages, LazyImages, ParquetImages, map_parquet
from .sources import (
    SPLITS,
    check_labels,
    check_parquet,
    checksum,
    convert,
    count_rows,
    decode,
    file_marks,
    find_columns,
    is_grey,
    is_labelled,
    parquet_files,
    picture_bytes,
    read_labels,
    read_parquet,
    schema_classes,
    spread,
    to_float,
    to_uint8,
)
from .stream import StreamedImages

__all__ = [
    "NAMES", "FolderImages", "ImageSet", "LazyImages", "ParquetImages", "StreamedImages",
    "batches", "check_batch_size", "class_names", "fitted", "in_order", "load_images",
    "to_float", "to_uint8",
]  # fmt: skip

EMBEDDED = Path(__file__).resolve().parents[2] / "data"


@dataclass(frozen=True)
class Known:
    """Where a named set lives, and how its pictures look before padding."""

    hub: str
    config: str  # the hub's folder of parquet files
    size: int
    channels: int
    padding: int = 0


KNOWN = {
    "fashion": Known("zalando-datasets/fashion_mnist", "fashion_mnist", 28, 1, padding=2),
    "cifar10": Known("uoft-cs/cifar10", "plain_text", 32, 3),
}
SUBSETS = {
    "fashion-subset": ("fashion", "fashion_mnist_subset"),
    "cifar10-subset": ("cifar10", "cifar10_subset"),
}
IMAGENET = ("imagenet", "imagenet-stream")
NAMES = (*SUBSETS, *KNOWN, *IMAGENET)


@dataclass(eq=False)
class ImageSet(Dataset):
    """A set held in memory: images uint8 (N, C, H, W), labels int64 (N,) in [0, len(classes))."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images are {self.images.dtype} {tuple(self.images.shape)}, "
                "expected uint8 (N, C, H, W)"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{self.name}: {len(self.images)} images but labels {tuple(self.labels.shape)}"
            )
        check_labels(self.labels.numpy(), self.classes, self.name)

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the pixels, the labels and the class names."""
        return checksum(self.name, self.images.numpy(), self.labels.numpy(), *self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_float(self.images[index]), int(self.labels[index])


def load_images(
    name: str | Path,
    split: str = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    root: str | Path | None = None,
    limit: int | None = None,
) -> ImageSet | FolderImages | ParquetImages | StreamedImages:
    """A set of labelled images by its name (see `NAMES`) or its folder.

    split: "train" or "test" (ImageNet: its validation part). size: side in pixels; by default
    32 for the small sets (Fashion-MNIST's 28 are padded with background, never stretched), 256
    for ImageNet, the first picture's for a folder. channels: 1 or 3, by default the set's own.
    root: folder with the full sets (parquet files in the hub's layout; for ImageNet also class
    folders), before $VARMINI_DATA and the hub. limit: that many images, evenly spaced over the set
    (of a stream: its first). Every set has a `fingerprint` that changes with its content.

    Raises ValueError, in one line, for an unknown name, a folder without labelled pictures, a
    parquet file that is broken or lacks a column, or a set that is neither here nor on the hub.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected 'train' or 'test'")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels {channels}: expected 1 or 3")
    for key, value in (("size", size), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{key} {value}: expected at least 1")
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"root {root}: no such folder")
    options = {"size": size, "channels": channels, "limit": limit}
    root = None if root is None else Path(root)
    if name in SUBSETS or name in KNOWN:
        return _load_known(str(name), split, root, **options)
    if name in IMAGENET:
        options.update(size=size or 256, channels=channels or 3)
        folder = root or _in_data_folder("imagenet-1k", "imagenet")
        stream = name == "imagenet-stream"
        if folder:  # its "test" files carry no labels: the hub's validation part is our test
            return _load_folder(folder, split, SPLITS[split][::-1], options, stream)
        part = "train" if split == "train" else "validation"
        rows = _from_hub("imagenet", "imagenet-1k", part, stream)
        if stream:
            total = rows.info.splits[part].num_examples
            mark = (rows.info.version, part)
            return StreamedImages(rows, total, "imagenet", split, mark=mark, **options)
        return ParquetImages(rows, "imagenet", split, **options)
    if not Path(name).is_dir():
        raise ValueError(f"{name}: neither a folder nor one of {', '.join(NAMES)}")
    return _load_folder(Path(name), split, SPLITS[split], options)


def _in_data_folder(*names: str) -> Path | None:
    """The first of these folders that exists under $VARMINI_DATA."""
    data = os.environ.get("VARMINI_DATA")
    return next((Path(data, n) for n in names if Path(data, n).is_dir()), None) if data else None


def _load_folder(
    folder: Path, split: str, parts: Sequence[str], options: dict, stream: bool = False
) -> FolderImages | ParquetImages | StreamedImages:
    files, place = _folder_parquet(folder, parts)
    if files:
        for file in files:
            check_parquet(file)
        rows = map_parquet(files, stream)
        if stream:
            total, mark = sum(map(count_rows, files)), file_marks(files, folder)
            return StreamedImages(rows, total, folder.name, split, mark=mark, **options)
        return ParquetImages(rows, folder.resolve().name, split, files=files, **options)
    if place:
        raise ValueError(f"{folder}: none of its parquet files is called {' or '.join(parts)}-*")
    return FolderImages(folder, split, **options)


def _folder_parquet(folder: Path, parts: Sequence[str]) -> tuple[list[Path], Path | None]:
    """The labelled parquet files of a split in a folder or its sub-folders, and where any lie.

    ImageNet's own test part carries no labels: the next part that has some is taken instead.
    """
    place, found = None, []
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        for part in parts:
            files = parquet_files(place, (part,))
            found = found or files
            if files and (len(parts) == 1 or is_labelled(files[0])):
                return files, place
        if found or any(place.glob("*.parquet")):
            return found, place
    return [], None


def class_names(name: str | Path, root: Path | None = None) -> tuple[str, ...]:
    """The names of a set's classes, from what is on this machine: the hub is never asked.

    name, root: as for `load_images`. Empty when the set is not here or names no classes.
    """
    known = next((small for small, (full, _) in SUBSETS.items() if full == name), name)
    folder = EMBEDDED / SUBSETS[known][1] if known in SUBSETS else Path(name)
    if name in IMAGENET:
        folder = root or _in_data_folder("imagenet-1k", "imagenet") or Path(os.devnull)
    if not folder.is_dir():
        return ()
    import pyarrow.parquet as pq

    files, place = _folder_parquet(folder, SPLITS["train"])
    if files:
        _, label = check_parquet(files[0])
        return schema_classes(pq.read_schema(files[0]), label, files[0]) or ()
    return () if place else folder_class_names(folder)


def _from_hub(name: str, hub: str, part: str, stream: bool = False):
    """A part of a hub set, its pictures still encoded; one line when it cannot be had."""
    import datasets
    from huggingface_hub import HfApi, is_offline_mode

    try:
        if not is_offline_mode():  # offline, load_dataset looks into its cache by itself
            HfApi().dataset_info(hub, timeout=10)  # fails at once, load_dataset retries for long
        return datasets.load_dataset(hub, split=part, streaming=stream)
    except Exception as error:  # no network, no account, terms not accepted, disk full, ...
        data = os.environ.get("VARMINI_DATA") or "not set"
        terms = ", accept its terms and `hf auth login`" if name == "imagenet" else ""
        raise ValueError(
            f"{name}: not under $VARMINI_DATA ({data}), and the hub's {hub} cannot be loaded "
            f"({type(error).__name__}); set VARMINI_DATA (or root) to a folder that holds its "
            f"parquet files, or connect to the network{terms}"
        ) from None


def find_parquet(name: str, split: str, root: Path | None) -> list[Path]:
    """The parquet files of a full set under root or $VARMINI_DATA; empty: ask the hub."""
    known = KNOWN[name]
    own = known.hub.split("/")[1]
    base = root or Path(os.environ.get("VARMINI_DATA") or os.devnull)
    for place in (f"{own}/{known.config}", own, f"{known.hub}/{known.config}", known.config, "."):
        if files := parquet_files(base / place, (split,)):
            return files
    if root:
        raise ValueError(f"{name}: no {own}/{known.config}/{split}-*.parquet under {root}")
    return []


def _load_known(
    name: str, split: str, root: Path | None, size: int | None, channels: int | None,
    limit: int | None,
) -> ImageSet:  # fmt: skip
    """An embedded subset, or a full set from parquet files or the hub, as bytes in memory."""
    known = KNOWN[SUBSETS[name][0] if name in SUBSETS else name]
    if name in SUBSETS:
        folder = EMBEDDED / SUBSETS[name][1]
        if not (files := parquet_files(folder, (split,))):
            raise ValueError(
                f"{name}: no {split}.parquet in {folder}; run varmini from a checkout of its "
                "repository (pip install -e .)"
            )
    else:
        files = find_parquet(name, split, root)
    if files:
        tables = [(f, read_parquet(f)) for f in files]
    else:
        tables = [(known.hub, _from_hub(name, known.hub, split).with_format("arrow")[:])]
    arrays, labels = [], []
    for source, table in tables:
        image, label = find_columns(table.schema, source)
        numbers, classes = read_labels(table[label], table.schema, label, source)
        rows = spread(len(table), limit and -(-limit // len(tables)))
        arrays.append(_decode_rows(table[image].take(rows), rows, known, channels, source))
        labels.append(numbers[rows])
    images = torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).contiguous()[:limit]
    images = F.pad(images, [known.padding] * 4)
    if size and size != images.shape[-1]:
        images = torch.cat([_resize(part, size) for part in images.split(1000)])
    return ImageSet(images, torch.from_numpy(np.concatenate(labels))[:limit], classes, name)


def _decode_rows(cells, rows: np.ndarray, known: Known, channels: int | None, source) -> np.ndarray:
    """Encoded pictures to bytes (N, H, W, C)."""
    channels = channels or known.channels
    out = np.empty((len(rows), known.size, known.size, channels), np.uint8)
    for i, cell in enumerate(cells.to_pylist()):
        picture = decode(picture_bytes(cell), f"{source}, row {rows[i]}")
        if picture.size != (known.size, known.size) or is_grey(picture) != (known.channels == 1):
            raise ValueError(
                f"{source}, row {rows[i]}: picture {picture.size}, mode {picture.mode}; expected "
                f"{known.hub} with {known.size}x{known.size} pixels, {known.channels} channels"
            )
        out[i] = np.asarray(convert(picture, channels)).reshape(out.shape[1:])
    return out


def _resize(images: Tensor, size: int) -> Tensor:
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def fitted(name: str, split: str, image_size: tuple[int, int], channels: int):
    """`load_images` for a model of that size: folders are resized, named sets come as they are."""
    if name in SUBSETS or name in KNOWN:
        return load_images(name, split)
    return load_images(name, split, size=image_size[0], channels=channels)
