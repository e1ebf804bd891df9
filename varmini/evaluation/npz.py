"""Sets of images in numpy's .npz files, as the ADM evaluator reads them, a part at a time.

`arr_0` holds bytes (N, H, W, 3), `arr_1` the labels (N,), as ADM's own sampling scripts write them
(github.com/openai/guided-diffusion, evaluations/README.md); a reference file may also hold the
statistics `mu` and `sigma` of its features.
"""

from __future__ import annotations

import math
import zipfile
import zlib
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

    Raises:
        ValueError: when the parts do not add up to `shape`; no file is left then.
    """
    with atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo made from a name carries no clock time.
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            count = 0
            for part in parts:
                if part.dtype != np.uint8 or part.shape[1:] != shape[1:]:
                    raise ValueError(f"{path}: a part is {part.dtype} {part.shape}, not {shape}")
                entry.write(np.ascontiguousarray(part).data)
                count += len(part)
        if count != shape[0]:
            raise ValueError(f"{path}: {count} images came, expected {shape[0]}")
        with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as entry:
            np.lib.format.write_array(entry, labels)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """`np.savez`, but whole or not at all; makes the folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        np.savez(file, **arrays)


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _entry(path: Path, name: str) -> Iterator[tuple]:
    """An open array of the file, with its shape and dtype, read from the header alone."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as entry:
            version = np.lib.format.read_magic(entry)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(entry)
            size = archive.getinfo(f"{name}.npy").file_size - entry.tell()
            if fortran or dtype.hasobject or math.prod(shape) * dtype.itemsize != size:
                raise ValueError(f"its header claims {dtype} {shape}, in {size} bytes")
            yield entry, shape, dtype
    except (OSError, KeyError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError,
            NotImplementedError, SyntaxError, zlib.error) as error:  # fmt: skip
        raise ValueError(f"{path}: cannot read {name} ({_reason(error)}); make it again") from None


def names(path: Path) -> list[str]:
    """The arrays that a .npz file holds; ValueError when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [n.removesuffix(".npy") for n in archive.namelist()]
            if not all(n.isprintable() for n in found):
                raise zipfile.BadZipFile("the name of an array is damaged")
            return found
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file ({_reason(error)})") from None


def image_shape(path: Path) -> tuple[int, int, int, int]:
    """The shape of arr_0, read from its header; ValueError unless it holds bytes (N, H, W, 3)."""
    with _entry(path, "arr_0") as (_, shape, dtype):
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"it is {dtype} {shape}, expected uint8 (N, H, W, 3)")
        if math.prod(shape[1:]) > PART:
            raise ValueError(f"it claims pictures of {shape[1]}x{shape[2]} pixels")
        return shape


def read_images(path: Path, count: int) -> Iterator[np.ndarray]:
    """The images of arr_0 in order, `count` at a time: bytes (n, H, W, 3)."""
    shape = image_shape(path)
    with _entry(path, "arr_0") as (entry, _, _):
        size = math.prod(shape[1:])
        count = min(count, max(1, PART // size))
        for start in range(0, shape[0], count):
            n = min(count, shape[0] - start)
            yield np.frombuffer(entry.read(n * size), np.uint8).reshape(n, *shape[1:])


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of an array, from its header."""
    with _entry(path, name) as (_, shape, _):
        return shape


def read_text(path: Path, name: str) -> str:
    """A single text, as numpy stores one."""
    with _entry(path, name) as (entry, shape, dtype):
        if shape or dtype.kind != "U":
            raise ValueError(f"it is {dtype} {shape}, expected a text")
        return str(np.frombuffer(entry.read(), dtype)[0])


def read_array(path: Path, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """One array of finite numbers, refused by its header unless its shape fits (None: any)."""
    with _entry(path, name) as (entry, found, dtype):
        fits = len(found) == len(shape) and all(b in (None, a) for a, b in zip(found, shape))
        if not fits or dtype.kind not in "fiu":
            raise ValueError(f"it is {dtype} {found}, expected numbers {shape}")
        array = np.frombuffer(entry.read(), dtype).reshape(found)
        if not np.isfinite(array).all():
            raise ValueError("it holds NaN or infinity")
        return array
