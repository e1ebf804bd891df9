"""From files to tensors: decoding, the one pixel convention, parquet tables, folders of pictures.

The lowest layer under `data.py`, which is what the rest of varmini imports.
"""

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
SPLITS = {"train": ("train",), "test": ("test", "validation", "val")}
HELD_OUT = 10  # a folder without split folders keeps one picture in ten for test
# Above ImageNet's largest (61 million) and below Pillow's own alarm; a header that claims more is
# refused before memory is taken for it.
MAX_PIXELS = 80_000_000
MAX_CLASSES = 1_000_000


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0..255, any shape, to float32 in [-1, 1]."""
    if images.dtype != torch.uint8:
        raise ValueError(f"to_float: got {images.dtype}, expected uint8 (values 0..255)")
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float images to uint8: clamped to [-1, 1], then rounded. Undoes `to_float` exactly."""
    if not images.is_floating_point():
        raise ValueError(f"to_uint8: got {images.dtype}, expected float images in [-1, 1]")
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def decode(file: str | bytes, source: str):
    """A PIL image from a path or from bytes.

    Raises:
        ValueError: naming `source`, when it is broken or claims more than MAX_PIXELS pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of odd metadata in pictures that can be read
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        image.load()
    except Exception as error:  # PIL's readers raise nearly everything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: broken picture ({reason}); replace or remove it") from None
    return image


def is_grey(image) -> bool:
    """Whether a PIL image has one channel (besides transparency)."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F"))


def convert(image, channels: int):
    """Mode L or RGB. Transparent parts become white; 16-bit greys keep their upper byte."""
    from PIL import Image

    if image.mode.startswith("I"):
        array = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((array >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def resize_and_crop(image, size: int, rng: np.random.Generator | None):
    """Shorter side to 1.125 x size, then a square of `size`: random with `rng`, else centred.

    Only the square is computed: the crop is taken in the picture's own coordinates.
    """
    from PIL import Image

    width, height = image.size
    middle = round(1.125 * size)
    short = min(width, height)
    scaled = (int(middle * width / short), int(middle * height / short))
    room = [side - size for side in scaled]
    left, top = (int(rng.integers(r + 1)) if rng else round(r / 2) for r in room)
    sx, sy = width / scaled[0], height / scaled[1]
    box = (left * sx, top * sy, min((left + size) * sx, width), min((top + size) * sy, height))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def to_tensor(image) -> Tensor:
    """A PIL image of mode L or RGB as uint8 (C, H, W)."""
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def spread(total: int, limit: int | None) -> np.ndarray:
    """`limit` indices evenly spaced over range(total), so that sorted sets give all classes."""
    count = total if limit is None else min(limit, total)
    return np.arange(count) * total // count


def parquet_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of a split, `name.parquet` or `name-*.parquet`, for the first name that has any.

    An empty list if there are none; ValueError when shards of `name-00000-of-00004` are missing.
    """
    for name in names:
        files = sorted([*folder.glob(f"{name}.parquet"), *folder.glob(f"{name}-*.parquet")])
        if files:
            shards = re.search(r"-of-0*(\d+)", files[0].name)
            if shards and int(shards[1]) != len(files):
                raise ValueError(
                    f"{folder}: {len(files)} of the {shards[1]} {name} files; fetch the others"
                )
            return files
    return []


@contextmanager
def _whole(file: Path):
    """Turns pyarrow's errors about a damaged file into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{file}: not a whole parquet file ({reason}); fetch it again") from None


def check_parquet(file: Path) -> tuple[str, str]:
    """Its image and its label column; reads the file's footer only."""
    import pyarrow.parquet as pq

    with _whole(file):
        footer = pq.read_metadata(file)
        schema = footer.schema.to_arrow_schema()
    # Pictures are compressed already, so an honest table is about as large as its file.
    claimed = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
    held = file.stat().st_size
    if footer.num_rows > held or claimed > 1000 * held or claimed < 0:
        raise ValueError(
            f"{file}: not a whole parquet file (claims {footer.num_rows} rows, {claimed} bytes in "
            f"a file of {held}); fetch it again"
        )
    return find_columns(schema, file)


def count_rows(file: Path) -> int:
    """Rows of a parquet file, from its footer."""
    import pyarrow.parquet as pq

    with _whole(file):
        return pq.read_metadata(file).num_rows


def is_labelled(file: Path) -> bool:
    """Whether a parquet file has a label that is not -1, the mark of a part without labels."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    _, label = check_parquet(file)
    with _whole(file):
        column = pq.read_table(file, columns=[label])[label]
        return bool(pc.any(pc.not_equal(column, -1)).as_py())


def read_parquet(file: Path):
    """A pyarrow table of the image and the label column."""
    import pyarrow.parquet as pq

    columns = check_parquet(file)
    with _whole(file):
        return pq.read_table(file, columns=list(columns))


def find_columns(schema, source: str | Path) -> tuple[str, str]:
    """Names of the image column (bytes, or a struct that holds them) and of the label column."""
    import pyarrow.types as kinds

    def holds_bytes(kind) -> bool:
        if kinds.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_null(kind)

    def first(names: Sequence[str], fits) -> str | None:
        here = (name for name in names if name in schema.names)
        return next((name for name in here if fits(schema.field(name).type)), None)

    image = first(("image", "img"), holds_bytes)
    label = first(("label", "labels"), kinds.is_integer)
    if image is None or label is None:
        wanted = "image (bytes)" if image is None else "label (integers)"
        raise ValueError(f"{source}: no column {wanted} among {', '.join(schema.names)}")
    return image, label


def schema_classes(schema, label: str, source: str | Path) -> tuple[str, ...] | None:
    """The class names in the `datasets` metadata of a parquet schema; None when it has none."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = info.get("info", {}).get("features", {}).get(label, {}).get("names")
    except (ValueError, AttributeError):
        raise ValueError(
            f"{source}: its 'huggingface' metadata is damaged; fetch the file again"
        ) from None
    if names is None:
        return None
    if not (isinstance(names, list) and names and all(map(_is_name, names))):
        raise ValueError(f"{source}: the class names in its metadata are no list of names")
    return tuple(names)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable()


def read_labels(column, schema, name: str, source) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64 and class names, from the `datasets` metadata or else the numbers."""
    if column.null_count:
        raise ValueError(f"{source}: {column.null_count} rows without a label")
    labels = column.to_numpy().astype(np.int64)
    classes = schema_classes(schema, name, source)
    if classes is None:
        largest = int(labels.max(initial=-1))
        if largest >= MAX_CLASSES:
            raise ValueError(f"{source}: a label is {largest}, expected less than {MAX_CLASSES}")
        classes = tuple(str(i) for i in range(largest + 1))
    check_labels(labels, classes, source)
    return labels, classes


def check_labels(labels: np.ndarray, classes: Sequence[str], source: str | Path) -> None:
    """ValueError for an empty set, or for the first label outside the classes (-1: unlabelled)."""
    if not len(labels):
        raise ValueError(f"{source}: holds no images")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"{source}: row {wrong[0]} has label {labels[wrong[0]]}, expected 0 to "
            f"{len(classes) - 1} (-1 marks a part without labels)"
        )


def picture_bytes(cell: dict | bytes | None) -> bytes:
    """The encoded picture in a cell of an image column (empty when there is none)."""
    return (cell.get("bytes") if isinstance(cell, dict) else cell) or b""


def checksum(*parts: object) -> str:
    """SHA-256 over arrays (their bytes) and anything else (its text), as hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).data)
        else:
            total.update(f"{part}\0".encode())
    return total.hexdigest()


def file_marks(files: Sequence[str | os.PathLike], base: str | os.PathLike) -> list[str]:
    """Name below `base`, size and time of each file: changes when a file does, and costs a stat."""
    marks = []
    for file in files:
        found = os.stat(file)
        marks.append(f"{os.path.relpath(file, base)} {found.st_size} {found.st_mtime_ns}")
    return marks
