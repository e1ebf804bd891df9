"""The proof of the grader: every named mistake is caught, every correct solution passes."""

from __future__ import annotations

import json
import linecache
import sys
import tomllib
import types
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from varmini.grade.calls import perform
from varmini.grade.checks import Result
from varmini.grade.compare import trouble
from varmini.grade.exam import Exam
from varmini.grade.submission import read_submission

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent.parent / "notebooks" / "assignments"


@dataclass(frozen=True)
class Change:
    """The solution with some texts, each of which stands there once, replaced."""

    name: str
    pairs: tuple[str, ...]
    """Old, new, old, new ..."""
    check: str = ""
    """The check that must catch it, if it is a mistake."""
    says: str = ""
    """What that check must call it; empty where it says what it saw, and no more."""

    def apply(self, source: str) -> str:
        for old, new in zip(self.pairs[::2], self.pairs[1::2]):
            assert source.count(old) == 1, f"{self.name}: {old!r} is not there once"
            source = source.replace(old, new)
        return source


@cache
def changes(assignment: str, kind: str = "mistakes") -> list[Change]:
    """Of the table beside this file: "mistakes", "correct" or "errors"."""
    table = tomllib.loads((HERE / f"{assignment}.toml").read_text())
    return [
        Change(name, (old, new, *more[2:]), *more[:2])
        for old, made in table.get(kind, {}).items()
        for name, (new, *more) in made.items()
    ]


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


@cache
def solution(assignment: str) -> str:
    """The code of the source notebook, without its markers."""
    blocks = read_submission(notebook(assignment, NOTEBOOKS / "source"))
    lines = "\n\n\n".join(source for _, source in blocks).splitlines()
    return "\n".join(line for line in lines if "### " not in line) + "\n"


def cases(assignment: str) -> list[tuple[str, str, str]]:
    """All of an assignment as (kind, name, source): the solution, others, mistakes."""
    source, files = solution(assignment), sorted((HERE / assignment).glob("*.py"))
    found = [("solution", "the source notebook", source)]
    found += [("alternative", path.stem, path.read_text()) for path in files]
    for kind, section in (("variant", "correct"), ("mistake", "mistakes")):
        found += [(kind, c.name, c.apply(source)) for c in changes(assignment, section)]
    return found


def load(source: str) -> dict[str, Any]:
    """The namespace of a submission, which is to be in `sys.modules` only while it loads."""
    module = sys.modules["submission"] = types.ModuleType("submission")
    linecache.cache["submission"] = (len(source), None, source.splitlines(True), "submission")
    try:
        exec(compile(source, "submission", "exec", dont_inherit=True), module.__dict__)
    finally:
        del sys.modules["submission"]
    return module.__dict__


def mark(exam: Exam, source: str) -> list[Result]:
    """Marks source code inside this process: the same checks, without the isolation."""
    namespace = load(source)
    return exam.mark(lambda calls, *more: [perform(namespace, asdict(c), *more) for c in calls])


def escapes(exam: Exam, mutant: Change) -> bool:
    """Whether a mistake earns the points of the check that must catch it."""
    namespace = load(mutant.apply(solution(exam.assignment.name)))
    check = next(check for check in exam.checks if check.name == mutant.check)
    answers = [perform(namespace, asdict(call)) for call in check.calls]
    if any(trouble(answer) or answer["changed"] for answer in answers):
        return False
    return exam.compare(check, [answer["value"] for answer in answers]) is None


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
