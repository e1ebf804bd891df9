"""`varmini grade`: marks one submission, or a whole class into one CSV file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ..grade.checks import load
from ..grade.marking import class_files, grade_class
from ..grade.marking import grade as mark
from ..grade.runner import Limits
from ..runtime.tables import write_rows
from .main import parse
from .models import output_file


@dataclass(frozen=True)
class Grade:
    """Marks an assignment: one notebook or .py file, or every one in a folder into a CSV file.

    Each submission runs in a process of its own with limits on time and memory, without network
    and without access to files. See docs/grading.md for what that gives and does not give.
    """

    assignment: tyro.conf.Positional[str]
    """a1, a2, a3 or a4."""
    submission: tyro.conf.Positional[Path]
    """A notebook, a .py file, or the folder of a class."""
    out: Path = Path("out/grades.csv")
    """CSV file for a class."""
    overwrite: bool = False
    """Replace the CSV file if it exists."""
    seed: int | None = None
    """Of the random inputs; None draws one, and the mark sheet names it."""
    seconds: float = 120.0
    """Seconds that one submission may take, loading torch not counted."""
    memory: int = 2048
    """MiB that one submission may use on top of torch."""


def grade(args: Sequence[str], prog: str) -> None:
    """`varmini grade`."""
    o = parse(Grade, args, prog)
    load(o.assignment)
    if o.seconds <= 0 or o.memory < 64 or (o.seed is not None and o.seed < 0):
        raise ValueError(
            f"seconds={o.seconds:g}, memory={o.memory}, seed={o.seed}: expected more than 0, at "
            f"least 64 and no negative number"
        )
    limits = Limits(total_seconds=o.seconds, memory_mb=o.memory)
    if not o.submission.is_dir():
        if o.out != Grade.out:
            raise ValueError(f"--out {o.out} is for the folder of a class: leave it out")
        report = mark(o.assignment, o.submission, seed=o.seed, limits=limits)
        print(report.text())
        warn(report.isolation)
        return
    path = output_file(o.out, ".csv", o.overwrite)
    count, rows = len(class_files(o.submission)), []
    from tqdm.auto import tqdm

    marked = grade_class(o.assignment, o.submission, seed=o.seed, limits=limits)
    for row in tqdm(marked, total=count, desc="grading", unit="submission"):
        rows.append(row)
        cells = [{key: harmless(value) for key, value in row.items()} for row in rows]
        write_rows(path, cells)  # what is marked stays marked, whatever comes next
    for row in rows:
        print(f"{row['earned']:>3} of {row['points']}  {row['submission']}")
    print(f"wrote {path}: {len(rows)} submissions, seed {rows[0]['seed']}")
    lost = [row["submission"] for row in rows if row["isolation"] == "not run"]
    if lost:
        print(f"varmini: warning: could not be graded (see the remarks): {', '.join(lost)}",
              file=sys.stderr)  # fmt: skip
    for isolation in sorted({row["isolation"] for row in rows} - {"not run"}):
        warn(isolation)


def warn(isolation: str) -> None:
    """Says so when the kernel's fences were not there."""
    if "inside Python only" in isolation:
        print(
            f"varmini: warning: this system isolates by {isolation}; mark only what you would run "
            f"yourself, or grade in a container (docs/grading.md)",
            file=sys.stderr,
        )


def harmless(value: Any) -> Any:
    """A cell of the CSV file; text that a spreadsheet would take for a formula gets an '."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if formula else value
