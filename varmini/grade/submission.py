"""Reads a submission without running any of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

LARGEST_FILE, LARGEST_CODE = 20 * 2**20, 2**20
SUFFIXES = (".ipynb", ".py")
SKIP = "skip-grading"
"""Tag of cells that only show or check something, in the notebooks that we hand out."""


def read_submission(path: Path) -> list[tuple[str, str]]:
    """The code of a notebook or a .py file as (label, source), such as ("cell 3", "x = 1").

    Cells are counted from 1 over the whole notebook, text included. Cells in another language
    (`%%bash`) are left out.

    Raises:
        ValueError: on a file that cannot be read, is too large or no notebook.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path.name} is no submission: expected a .ipynb or a .py file")
    if not path.is_file():
        raise ValueError(f"no file {path}: give the notebook or .py file to grade")
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path.name} has {size / 2**20:.0f} MiB, expected at most {LARGEST_FILE >> 20}: "
            f"clear the notebook's outputs"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text in UTF-8: save it again from Jupyter") from None
    if path.suffix == ".py":
        return _checked(path, [(path.name if path.name.isprintable() else "the file", text)])
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name} is no notebook ({type(error).__name__}: {error}): "
            f"save it again from Jupyter"
        ) from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError(f"{path.name} is no notebook of format 4: save it again from Jupyter")
    blocks = []
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if SKIP not in _tags(cell) and not re.match(r"\s*%%(?!time|capture)", source):
            blocks.append((f"cell {number}", re.sub(r"\A\s*%%.*", "", source)))
    return _checked(path, blocks)


def _checked(path: Path, blocks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    size = sum(len(source) for _, source in blocks)
    if size > LARGEST_CODE:
        raise ValueError(
            f"{path.name} holds {size:,} characters of code, expected at most {LARGEST_CODE:,}: "
            f"hand in the functions that the assignment asks for"
        )
    return blocks


def _tags(cell: dict) -> list:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []
