"""Tables of results on disk: CSV files that a script can read back as numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import write_atomic

RESULTS = Path(__file__).resolve().parent.parent / "results"
"""The committed results of a checkout."""

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


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a CSV file; what reads as a number is one, an empty cell is left out.

    Raises:
        ValueError: when the file is missing or is no CSV text.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}): measure it again") from None
    if any(None in row for row in rows):
        raise ValueError(f"{path} has a row with more cells than columns: measure it again")
    return [{k: _value(v) for k, v in row.items() if k and v not in ("", None)} for row in rows]


def _value(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            pass
    return text
