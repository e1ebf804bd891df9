"""Marks the assignments: `grade("a1", "submission.ipynb")`, a whole class, and in the notebooks.

A submission runs in a locked-in process that only sends arrays back; what they are compared with
is computed here, from fresh random inputs, by references in float64. What that isolation gives and
does not give: `docs/grading.md`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .checks import Result, load
from .exam import Exam
from .runner import Call, Limits, Session
from .submission import SUFFIXES, read_submission


@dataclass(frozen=True)
class Report:
    """What `grade` found."""

    assignment: str
    submission: str
    results: list[Result]
    notes: list[str]  # statements of the submission that failed; not marked, but often the reason
    seed: int  # of the random inputs; the same seed repeats them
    isolation: str  # which fences stood around the submission
    seconds: float

    @property
    def earned(self) -> int:
        return sum(result.earned for result in self.results)

    @property
    def points(self) -> int:
        return sum(result.points for result in self.results)

    def text(self) -> str:
        """The mark sheet, a line a check."""
        lines = [f"{self.submission} · {self.assignment}: {load(self.assignment).title}"]
        for r in self.results:
            lines.append(f"  {r.earned}/{r.points}  task {r.task}  {r.check}: {r.message}")
        if self.notes:
            lines += ["", "Parts of the submission that failed while it was loaded:"]
            lines += [f"  {note}" for note in self.notes]
        lines += ["", f"{self.earned} of {self.points} points · seed {self.seed} · fences: "
                      f"{self.isolation} · {self.seconds:.1f} s"]  # fmt: skip
        return "\n".join(lines)

    def row(self) -> dict[str, Any]:
        """One level of columns, for a CSV file."""
        lost = [f"{r.check}: {r.message}" for r in self.results if r.earned < r.points]
        row = {"submission": self.submission, "earned": self.earned, "points": self.points}
        row |= {r.check: r.earned for r in self.results}
        row |= {"remarks": " | ".join(lost), "notes": " | ".join(self.notes)}
        return row | {"seed": self.seed, "isolation": self.isolation}


def grade(
    assignment: str, submission: str | Path, *, seed: int | None = None, limits: Limits = Limits()
) -> Report:
    """Marks one submission.

    Args:
        assignment: "a1", "a2", "a3" or "a4".
        submission: a notebook or a .py file that defines the assignment's functions.
        seed: of the random inputs, together with the code; None draws a fresh one.
        limits: what the submission may use.

    Returns:
        The report; whatever the submission does, it costs marks of this submission only.

    Raises:
        ValueError: when there is no such assignment, or the file is no notebook or Python file.
        OSError: when the process for the submission does not start.
    """
    start = time.monotonic()
    seed = secrets.randbits(32) if seed is None else seed
    path = Path(submission)
    blocks = read_submission(path)
    exam = Exam(assignment, seeds(seed, blocks))
    with Session(blocks, limits) as session:
        results = exam.mark(session.call)
    for result in results:
        result.message = plain(result.message)
    notes, seconds = [plain(note) for note in session.notes], time.monotonic() - start
    return Report(
        assignment, plain(path.name), results, notes, seed, session.isolation, seconds
    )


def seeds(seed: int, blocks: list[tuple[str, str]]) -> list[int]:
    """Of the inputs: they hang on the code, so that no answers can be written down in it."""
    code = json.dumps([source for _, source in blocks])
    return [seed, *hashlib.sha256(code.encode()).digest()]


def class_files(folder: Path) -> list[Path]:
    """The submissions in a folder and its sub-folders, in order; hidden ones are left out.

    Raises:
        ValueError: when there are none.
    """
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES)
    found = [path for path in files if not path.is_dir() and not _hidden(path.relative_to(folder))]
    if not found:
        raise ValueError(f"{folder} holds no .ipynb and no .py file: give the folder of a class")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def grade_class(
    assignment: str, folder: Path, *, seed: int | None = None, limits: Limits = Limits()
) -> Iterator[dict[str, Any]]:
    """Yields one row a submission; one that cannot be graded gets no points and says why.

    Args:
        folder: of `class_files`; a row names its file as from there.
        seed: as for `grade`; one seed is drawn for the class.
    """
    seed = secrets.randbits(32) if seed is None else seed
    none = [check.result(0, "") for check in load(assignment).checks]
    for path in class_files(folder):
        name = plain(str(path.relative_to(folder)))
        try:
            row = grade(assignment, path, seed=seed, limits=limits).row()
        except Exception as error:  # whatever goes wrong with one file, the class goes on
            why = str(error) if isinstance(error, ValueError) else repr(error)
            row = Report(assignment, name, none, [], seed, "not run", 0).row()
            row["remarks"] = plain(f"could not be graded: {why}")
        yield row | {"submission": name}


def plain(text: str, most: int = 400) -> str:
    """Text of a submission made fit for a terminal and a table: one line, no control characters."""
    text = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return text[:most] + "…" if len(text) > most else text


_exam = lru_cache(64)(Exam)


class Checker:
    """The grader's checks inside a notebook: says what a function earns, on fixed inputs.

    In a notebook it never raises, so that unfinished work does not stop the cells below. Under
    nbgrader it returns the points, which nbgrader takes as the cell's score, or raises an
    AssertionError when there are none.

    Args:
        assignment: "a1" to "a4".
        seed: of the inputs; change it to see others.

    Raises:
        ValueError: when there is no such assignment.
    """

    def __init__(self, assignment: str, seed: int = 0) -> None:
        self.assignment, self.seed = assignment, seed
        self.results: dict[str, Result] = {}
        self.points = load(assignment).points

    def __call__(self, function: Callable) -> int | None:
        """Prints the marks of one function, with a sentence on whatever is wrong."""
        results = self.run(function)
        for result in results:
            note = result.message
            if result.earned < result.points:
                note = f"{note.rstrip('.')}. See the hints of task {result.task}."
            print(f"{result.check}: {result.earned} of {result.points} points · {note}")
        if "NBGRADER_EXECUTION" not in os.environ:
            return None
        earned = sum(result.earned for result in results)
        assert earned, f"{function.__name__} is not right yet"
        return earned

    def run(self, function: Callable) -> list[Result]:
        """The results of the checks of one function.

        Raises:
            ValueError: when the assignment asks for no function of this name.
        """
        from .calls import Respond, perform  # loads torch

        name = getattr(function, "__name__", str(function))
        exam = _exam(self.assignment, self.seed, name)
        namespace = getattr(function, "__globals__", {}) | {name: function}

        def ask(calls: list[Call], respond: Respond | None = None) -> list[dict[str, Any]]:
            return [perform(namespace, asdict(call), respond) for call in calls]

        results = [result for result in exam.mark(ask) if result.function == name]
        self.results |= {result.check: result for result in results}
        return results

    def done(self, *functions: str) -> bool:
        """Whether these functions have earned all their points so far."""
        lost = {r.function for r in self.results.values() if r.earned < r.points}
        return set(functions) <= {r.function for r in self.results.values()} - lost

    def total(self) -> None:
        """Prints the sum so far, against the points of the assignment."""
        print(f"{sum(r.earned for r in self.results.values())} of {self.points} points")
