"""Sets of images in numpy's .npz files, as the ADM evaluator reads them, a part at a time.

`arr_0` holds bytes (N, H, W, 3), `arr_1` the labels (N,), as ADM's own sampling scripts write them
(github.com/openai/guided-diffusion, evaluations/README.md); a reference file may also hold the
statistics `mu` and `sigma` of its features.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..runtime.files import atomic

PART = 1 << 28  # bytes of pictures held in memory at once


def write_images(
    path: Path, shape: tuple[int, int, int, int], parts: Iterable[np.ndarray], labels: np.ndarray
) -> None:
    """Writes arr_0 from `parts` of bytes (n, H, W, 3), never all in memory, and arr_1, the labels.

    The same images give the same file, byte for byte.
    """
    with atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        # A ZipInfo made from a name carries no clock time.
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            for part in parts:
                entry.write(np.ascontiguousarray(part).data)
        with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as entry:
            np.lib.format.write_array(entry, labels)


@contextmanager
def _reading(path: Path, what: str) -> Iterator[zipfile.ZipFile]:
    """An open .npz file; whatever fails on it is one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # zipfile, zlib and numpy raise many kinds on damage
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: cannot read {what} ({reason}); make it again") from None


@contextmanager
def _entry(path: Path, name: str) -> Iterator[tuple]:
    """An open array of the file, with its shape and dtype, read from the header alone."""
    with _reading(path, name) as archive, archive.open(f"{name}.npy") as entry:
        first = np.lib.format.read_magic(entry) == (1, 0)
        form = np.lib.format
        read = form.read_array_header_1_0 if first else form.read_array_header_2_0
        shape, fortran, dtype = read(entry)
        size = archive.getinfo(f"{name}.npy").file_size - entry.tell()
        if fortran or dtype.hasobject or math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"its header claims {dtype} {shape}, in {size} bytes")
        yield entry, shape, dtype


def names(path: Path) -> list[str]:
    """The arrays that a .npz file holds; ValueError when it is none."""
    with _reading(path, "its arrays") as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        if not all(name.isprintable() for name in found):
            raise ValueError("the name of an array is damaged")
        return found


def image_shape(path: Path) -> tuple[int, int, int, int]:
    """The shape of arr_0, read from its header; ValueError unless it holds bytes (N, H, W, 3)."""
    with _entry(path, "arr_0") as (_, shape, dtype):
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"it is {dtype} {shape}, expected uint8 (N, H, W, 3)")
        return shape


def read_images(path: Path, count: int) -> Iterator[np.ndarray]:
    """The images of arr_0 in order, `count` at a time: bytes (n, H, W, 3)."""
    shape = image_shape(path)
    size = math.prod(shape[1:])
    count = min(count, max(1, PART // size))
    with _entry(path, "arr_0") as (entry, _, _):
        for start in range(0, shape[0], count):
            n = min(count, shape[0] - start)
            yield np.frombuffer(entry.read(n * size), np.uint8).reshape(n, *shape[1:])


def read_array(path: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """One array of finite numbers; refused unless its shape fits (None: any length)."""
    with _entry(path, name) as (entry, found, dtype):
        fits = len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape))
        if not fits or dtype.kind not in "fiu":
            raise ValueError(f"it is {dtype} {found}, expected {shape}")
        array = np.frombuffer(entry.read(), dtype).reshape(found)
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("it holds NaN or infinity")
        return array
