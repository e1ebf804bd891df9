"""Reads a submission without running any of it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

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
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text in UTF-8: save it again from Jupyter") from None
    if path.suffix == ".py":
        blocks = [(path.name if path.name.isprintable() else "the file", text)]
    else:
        try:
            blocks = list(_code_cells(json.loads(text)["cells"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path.name} is no notebook of format 4 ({type(error).__name__}: {error}): "
                f"save it again from Jupyter"
            ) from None
    size = len(json.dumps(blocks))  # as it travels to the child
    if size > LARGEST_CODE:
        raise ValueError(
            f"{path.name} holds {size:,} bytes of code, expected at most {LARGEST_CODE:,}: "
            f"hand in the functions that the assignment asks for"
        )
    return blocks


def _code_cells(cells: list[Any]):
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        source = re.sub(r"\A\s*%%(time|capture).*", "", source)
        metadata = cell.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, dict) else None
        skipped = isinstance(tags, list) and SKIP in tags
        if source.strip() and not skipped and not re.match(r"\s*%%", source):
            yield f"cell {number}", source


def _bytes(path: Path) -> bytes:
    """The content of an ordinary file; a link is not followed with the grader's rights."""
    try:
        if not path.is_symlink() and not path.exists():
            raise ValueError(f"no file {path}: give the notebook or .py file to grade")
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError("no ordinary file")
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        why = "a symbolic link" if path.is_symlink() else error.strerror or error
        raise ValueError(f"{path.name} cannot be read: {why}; hand in the file itself") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(
            f"{path.name} has more than {LARGEST_FILE >> 20} MiB: clear the notebook's outputs"
        )
    return data
