"""`varmini grade`: marks one submission, or a whole class into one CSV file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm.auto import tqdm

from ..grade.checks import load
from ..grade.marking import class_files, grade, grade_class
from ..grade.runner import Limits
from ..runtime.tables import write_rows
from .models import output_file, warn

OUT = Path("out/grades.csv")


@dataclass(frozen=True)
class Grade:
    """Marks an assignment: one notebook or .py file, or every one in a folder into a CSV file.

    Each submission runs in a process of its own with limits on time and memory, without network
    and without access to files. See docs/grading.md for what that gives and does not give.
    """

    assignment: tyro.conf.Positional[str]  # a1, a2, a3 or a4.
    submission: tyro.conf.Positional[Path]  # A notebook, a .py file, or the folder of a class.
    out: Path = OUT  # CSV file for a class.
    overwrite: bool = False  # Replace the CSV file if it exists.
    seed: int | None = None
    """Of the random inputs; None draws one, and the mark sheet names it."""
    seconds: float = 120.0
    """Seconds that one submission may take, loading torch not counted."""
    memory: int = 2048  # MiB that one submission may use on top of torch.

    def __call__(self) -> None:
        load(self.assignment)
        if self.seconds <= 0 or self.memory < 64 or (self.seed is not None and self.seed < 0):
            raise ValueError(
                f"seconds={self.seconds:g}, memory={self.memory}, seed={self.seed}: expected more "
                "than 0, at least 64 and no negative number"
            )
        limits = Limits(total_seconds=self.seconds, memory_mb=self.memory)
        if self.submission.is_dir():
            self._class(limits)
            return
        if self.out != OUT:
            raise ValueError(f"--out {self.out} is for the folder of a class: leave it out")
        report = grade(self.assignment, self.submission, seed=self.seed, limits=limits)
        print(report.text())
        _warn(report.isolation)

    def _class(self, limits: Limits) -> None:
        path = output_file(self.out, ".csv", self.overwrite)
        count, rows, cells = len(class_files(self.submission)), [], []
        marked = grade_class(self.assignment, self.submission, seed=self.seed, limits=limits)
        for row in tqdm(marked, total=count, desc="grading", unit="submission"):
            rows.append(row)
            cells.append({key: harmless(value) for key, value in row.items()})
            write_rows(path, cells)  # what is marked stays marked, whatever comes next
        for row in rows:
            print(f"{row['earned']:>3} of {row['points']}  {row['submission']}")
        print(f"wrote {path}: {len(rows)} submissions, seed {rows[0]['seed']}")
        if lost := [row["submission"] for row in rows if row["isolation"] == "not run"]:
            warn(f"could not be graded (see the remarks): {', '.join(lost)}")
        for isolation in sorted({row["isolation"] for row in rows}):
            _warn(isolation)


def _warn(isolation: str) -> None:
    """Says so when the kernel's fences were not there."""
    if "inside Python only" in isolation:
        warn(
            f"this system isolates by {isolation}; mark only what you would run yourself, or grade "
            "in a container (docs/grading.md)"
        )


def harmless(value: Any) -> Any:
    """A cell of the CSV file; text that a spreadsheet would take for a formula gets an '."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if formula else value
