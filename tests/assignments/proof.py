"""The proof of the grader: every named mistake is caught, every correct solution passes."""

from __future__ import annotations

import importlib
import json
import sys
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from varmini.grade.calls import perform
from varmini.grade.checks import Result
from varmini.grade.compare import trouble
from varmini.grade.exam import Exam
from varmini.grade.submission import read_submission

from .correct import CORRECT

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent.parent / "notebooks" / "assignments"


@dataclass(frozen=True)
class Mutant:
    """A named mistake: the solution with `old`, which stands there once, replaced by `new`."""

    name: str
    check: str
    """The check that must catch it."""
    mistake: str
    """What that check must call it; empty where it says what it saw, and no more."""
    old: str
    new: str
    more: tuple[str, ...] = ()
    """Further pairs of old and new."""


def notebook(assignment: str, folder: Path = NOTEBOOKS) -> Path:
    """The notebook of an assignment: the students', or the one with solutions in `source`."""
    (path,) = folder.glob(f"{assignment}_*.ipynb")
    return path


def notebook_of(*cells: dict) -> str:
    """A notebook, as text."""
    return json.dumps({"cells": list(cells), "nbformat": 4, "nbformat_minor": 5, "metadata": {}})


def code(source: str | list[str], **metadata: Any) -> dict:
    """A code cell."""
    return {"cell_type": "code", "source": source, "metadata": metadata}


def solution(assignment: str) -> str:
    """The code of the source notebook, without its markers."""
    blocks = read_submission(notebook(assignment, NOTEBOOKS / "source"))
    lines = "\n\n\n".join(source for _, source in blocks).splitlines()
    return "\n".join(line for line in lines if "### " not in line) + "\n"


def mutants(assignment: str) -> list[Mutant]:
    return importlib.import_module(f"assignments.{assignment}_mutants").MUTANTS


def mutate(source: str, mutant: Mutant) -> str:
    """The solution with one mistake."""
    pairs = (mutant.old, mutant.new, *mutant.more)
    for old, new in zip(pairs[::2], pairs[1::2]):
        assert source.count(old) == 1, f"{mutant.name}: {old!r} is not there once"
        source = source.replace(old, new)
    return source


def alternatives(assignment: str) -> list[Path]:
    """Other correct solutions."""
    return sorted((HERE / assignment).glob("*.py"))


def cases(assignment: str) -> list[tuple[str, str, str]]:
    """All of an assignment as (kind, name, source): the solution, others, mistakes."""
    source = solution(assignment)
    return [
        ("solution", "the source notebook", source),
        *(("alternative", path.stem, path.read_text()) for path in alternatives(assignment)),
        *(
            ("variant", name, mutate(source, Mutant(name, "", "", *change)))
            for name, *change in CORRECT[assignment]
        ),
        *(("mistake", mutant.name, mutate(source, mutant)) for mutant in mutants(assignment)),
    ]


def mark(exam: Exam, source: str) -> list[Result]:
    """Marks source code inside this process: the same checks, without the isolation."""
    module = sys.modules["submission"] = types.ModuleType("submission")
    try:
        exec(compile(source, "submission", "exec", dont_inherit=True), module.__dict__)
        return exam.mark(
            lambda calls, *respond: [perform(module.__dict__, asdict(c), *respond) for c in calls]
        )
    finally:
        del sys.modules["submission"]


def escapes(exam: Exam, mutant: Mutant, source: str) -> bool:
    """Whether a mistake earns the points of the check that must catch it."""
    namespace: dict[str, Any] = {"__name__": "submission"}
    exec(compile(mutate(source, mutant), "submission", "exec", dont_inherit=True), namespace)
    pairs = zip(exam.checks, exam.cases)
    check, case = next(pair for pair in pairs if pair[0].name == mutant.check)
    answers = [perform(namespace, asdict(call)) for call in case]
    if any(trouble(answer) or answer["changed"] for answer in answers):
        return False
    return exam.compare(check, case, [answer["value"] for answer in answers]) is None


def verdict(results: list[Result]) -> dict[str, Any]:
    """The columns of the table: points, the checks that failed, what the first one says."""
    lost = [result for result in results if result.earned < result.points]
    return {
        "earned": sum(result.earned for result in results),
        "points": sum(result.points for result in results),
        "caught by": " ".join(result.check for result in lost),
        "named": lost[0].mistake if lost else "",
        "seems": lost[0].kind if lost else "",
    }
