"""Tables of results: CSV files that a script reads back as numbers."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import write_atomic

RESULTS = Path(__file__).resolve().parents[2] / "results"
"""The committed results: of the checkout, or the tables of them that `pip install` carries."""
if not (RESULTS / "scaling" / "sweep.csv").is_file():
    RESULTS = Path(__file__).resolve().parents[1] / "results"

Row = dict[str, Any]


def origin() -> Row:
    """Where a row comes from, as columns: arithmetic, threads, date, hardware, command, commit."""
    from .machine import provenance

    found = provenance()
    names = ("threads", "date", "hardware", "command", "commit")
    # "precision" is also the name of a measure.
    return {"arithmetic": found["precision"]} | {name: found[name] for name in names}


def write_rows(path: str | Path, rows: Sequence[Row]) -> Path:
    """Writes rows as one CSV file, replacing the one before; columns in order of appearance.

    Raises:
        ValueError: when there are no rows.
        OSError: when the file cannot be written; the one before is then untouched.
    """
    if not rows:
        raise ValueError(f"no rows for {path}: nothing was measured")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())
    return path


def read_cells(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file as text, by column.

    Raises ValueError when the file is missing, is no CSV text, or a row has not a cell a column.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}): make it again") from None
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} has a row with too many or too few cells: make it again")
    return rows


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a CSV file; what reads as a number is one, an empty cell is left out.

    A commit stays text: some, like 2662e1778366, read as a number. Raises as `read_cells`.
    """
    return [
        {k: v if k == "commit" else _value(v) for k, v in row.items() if k and v}
        for row in read_cells(path)
    ]


def append_row(path: str | Path, row: Row) -> Path:
    """Adds a row to a CSV file, made if missing; the rows before it stay, whatever happens.

    Raises ValueError when the file has other columns or is no CSV file.
    """
    rows = read_cells(path) if Path(path).exists() else []
    if rows and list(rows[0]) != list(row):
        raise ValueError(f"{path} holds other columns than this result: choose another --out")
    return write_rows(path, [*rows, row])


def rows_of(path: Path) -> list[Row]:
    """The rows of a CSV file; none when it was never measured."""
    return read_rows(path) if path.exists() else []


def _value(text: str) -> int | float | str:
    for kind in (int, float) if text != "infinity" else ():  # a method; the number is "inf"
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
