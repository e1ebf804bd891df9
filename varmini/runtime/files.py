"""Files that are whole or absent: written under a temporary name, flushed to disk, then renamed.

A crash never leaves half a file under a final name, and an earlier file stays until then.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_HOST = platform.node()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file under a temporary name that becomes `path`, on disk, when the block ends well.

    Raises OSError when the folder cannot be written; the old file is then untouched.
    """
    path = Path(path)
    _sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):  # the new name, too, survives a power cut
            folder = os.open(path.parent, os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    with atomic(path) as file:
        file.write(content)


@functools.cache
def _sweep(folder: Path) -> None:
    """Once a process and folder: removes what processes of this machine left that died writing."""
    for path in folder.glob(".*.tmp"):
        machine, _, number = path.name.removesuffix(".tmp").rpartition("-")
        if machine.endswith(f".{_HOST}") and number.isdigit() and not _runs(int(number)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return True


def check_writable(path: Path) -> Path:
    """Tries the place of a file that long work will end in, and leaves nothing; returns `path`.

    Raises ValueError when the nearest folder above `path` that is there takes no files.
    """
    try:
        place = next(p for p in path.absolute().parents if p.exists())
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}): choose another place"
        ) from None
    return path


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_format(found: Any, known: int, source: str) -> None:
    """Raises a ValueError unless `source` has the format that this varmini reads."""
    if found != known:
        newer = isinstance(found, int) and found > known
        fix = "a newer one wrote it; update varmini" if newer else "write it again"
        raise ValueError(f"{source} has format {found!r}, this varmini reads {known}: {fix}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, or raises a ValueError that names the file."""
    try:
        values = json.loads(Path(path).read_text())
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__}, not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read as JSON ({error}): restore the file or train again"
        ) from None
    return values
