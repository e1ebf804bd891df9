"""Tables of results: CSV files that a script reads back as numbers, and their words in markdown."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from .files import write_atomic

RESULTS = Path(__file__).resolve().parents[2] / "results"
"""The committed results: of the checkout, or the tables of them that `pip install` carries."""
if not (RESULTS / "scaling" / "sweep.csv").is_file():
    RESULTS = Path(__file__).resolve().parents[1] / "results"

NOT_MEASURED = "not measured"

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


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; what is missing was not measured."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def with_error(rows: Sequence[Row], name: str, digits: int = 2, scale: float = 1) -> str:
    """mean ± `error_of` over runs."""
    if not rows:
        return NOT_MEASURED
    centre, error = scale * mean(r[name] for r in rows), scale * error_of(rows, name)
    return f"{centre:.{digits}f} ± {error:.{digits}f}"


def error_of(rows: Sequence[Row], name: str) -> float:
    """Standard error of a mean over runs: between runs, but no less than the sampling error.

    Between two runs it is half of their difference.
    """
    n = len(rows)
    sampling = (sum(r[f"{name}_se"] ** 2 for r in rows) ** 0.5) / n
    centre = mean(r[name] for r in rows)
    between = (sum((r[name] - centre) ** 2 for r in rows) / (n * (n - 1))) ** 0.5 if n > 1 else 0.0
    return max(sampling, between)


def provenance(rows: Sequence[Row]) -> str:
    """One line: by which command, on which commit, where and when."""
    commands = "; ".join(dict.fromkeys(f"`{r['command']}`" for r in rows))
    commits = ", ".join(dict.fromkeys(str(r["commit"]) for r in rows))
    dates = sorted({str(r["date"])[:10] for r in rows})
    machines = ", ".join(dict.fromkeys(str(r["hardware"]) for r in rows))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{commands}; commit {commits}; {machines}; {when}.\n"


def _value(text: str) -> int | float | str:
    if text == "infinity":  # a method; the number is written as "inf"
        return text
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
