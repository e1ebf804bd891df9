"""The submissions of the attack: wrong, right and dishonest, as `Submission`s."""

from __future__ import annotations

import json
import os
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assignments import proof
from assignments.attack import mutations

HERE = Path(__file__).parent
ASSIGNMENTS = ("a1", "a2", "a3", "a4")
START = {"a4": "import numpy as np\n"}
TORCH = "import torch\nimport torch.nn.functional as F\n"


@dataclass(frozen=True)
class Submission:
    """One file of the attack."""

    assignment: str
    kind: str  # "wrong", "right" or "dishonest"
    changed: str  # in words
    source: str
    honest: int = 0
    """Points that a dishonest one earns with code that is right."""
    equivalent: str = ""
    """Why a mutant gives the same results as the solution for every valid input."""
    write: Callable[[Path, str], Path] | None = None
    """Makes the file in a folder, where it is not just the source."""

    def file(self, folder: Path) -> Path:
        """The submission as a file in an empty folder."""
        if self.write is not None:
            return self.write(folder, self.source)
        path = folder / "submission.py"
        path.write_text(self.source)
        return path


@cache
def table(name: str) -> dict[str, dict[str, str]]:
    """By assignment: what was changed, and the code or the reason."""
    return tomllib.loads((HERE / f"{name}.toml").read_text("utf-8"))


def submissions() -> Iterator[Submission]:
    """All of them, in a fixed order."""
    for assignment in ASSIGNMENTS:
        solution = proof.solution(assignment)
        reasons = table("equivalent").get(assignment, {})
        for mutant in mutations.chosen(assignment):
            reason = next((why for what, why in reasons.items() if what in mutant.words), "")
            yield Submission(assignment, "wrong", mutant.words, mutant.source, equivalent=reason)
        for kind in ("wrong", "right"):
            for name, code in table(kind)[assignment].items():
                yield Submission(assignment, kind, f"by hand: {name}", f"{solution}\n\n{code}")
        yield from cheats(assignment)
    for name, write in FILES.items():
        yield Submission("a1", "dishonest", name, proof.solution("a1"), write=write)


def cheats(assignment: str) -> Iterator[Submission]:
    """The dishonest ones that are code."""
    for name, code in table("dishonest")[assignment].items():
        told = re.search(r"^# honest (\d+)$", code, re.MULTILINE)
        source = START.get(assignment, TORCH) + code
        yield Submission(assignment, "dishonest", name, source, int(told[1]) if told else 0)


def link(folder: Path, source: str) -> Path:
    (folder / "solution.txt").write_text(source)
    os.symlink(folder / "solution.txt", folder / "submission.py")
    return folder / "submission.py"


def link_to_process(folder: Path, source: str) -> Path:
    os.symlink("/proc/self/fd/0", folder / "submission.py")
    return folder / "submission.py"


def pipe(folder: Path, source: str) -> Path:
    os.mkfifo(folder / "submission.py")
    return folder / "submission.py"


def packed(folder: Path, source: str) -> Path:
    with zipfile.ZipFile(folder / "inner.zip", "w") as file:
        file.writestr("submission.py", source)
    with zipfile.ZipFile(folder / "submission.ipynb", "w") as file:
        file.write(folder / "inner.zip", "submission.ipynb")
    return folder / "submission.ipynb"


def saved(folder: Path, text: str) -> Path:
    (folder / "submission.ipynb").write_text(text)
    return folder / "submission.ipynb"


def outside_code(folder: Path, source: str) -> Path:
    """The solution in outputs, text, raw cells, attachments and metadata: all but code."""
    more = {"metadata": {"code": source}, "attachments": {"a": {"text/plain": source}}}
    other = [{"cell_type": kind, "source": source, **more} for kind in ("markdown", "raw")]
    cell = proof.code("pass", run=source) | {"outputs": [{"name": "stdout", "text": source}]}
    return saved(folder, proof.notebook_of(*other, cell))


def inner_notebook(folder: Path, source: str) -> Path:
    inner = {"cell_type": "code", "cells": [proof.code(source)], "metadata": {}}
    return saved(folder, proof.notebook_of(inner, {"worksheets": [{"cells": [inner]}]}))


def deep(folder: Path, source: str) -> Path:
    return saved(folder, '{"cells": ' + "[" * 100_000 + "]" * 100_000 + "}")


def twice(folder: Path, source: str) -> Path:
    """Two lists of cells: what a teacher sees and what runs might differ."""
    empty = json.dumps([proof.code("print('25 of 25')")])
    return saved(folder, '{"cells": [], "cells": %s}' % empty)  # noqa: UP031


def large_outputs(folder: Path, source: str) -> Path:
    cell = proof.code("pass") | {"outputs": [{"text": "x" * (21 << 20)}]}
    return saved(folder, proof.notebook_of(cell))


def folder_as_file(folder: Path, source: str) -> Path:
    (folder / "submission.py").mkdir()
    (folder / "submission.py" / "__init__.py").write_text(source)
    return folder / "submission.py"


FILES = {
    "a link to the solution": link,
    "a link to an open file of the grader": link_to_process,
    "a pipe that nobody writes to": pipe,
    "a zip in a zip, called .ipynb": packed,
    "the solution everywhere but in code": outside_code,
    "a notebook inside a cell": inner_notebook,
    "lists 100,000 deep": deep,
    "two lists of cells": twice,
    "21 MiB of outputs": large_outputs,
    "a package instead of a file": folder_as_file,
}
