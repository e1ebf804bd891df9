"""Gives the assignments to nbgrader, and writes down what it makes of them: results/nbgrader.csv.

    pip install nbgrader==0.9.6      # in an environment of its own, beside varmini
    python scripts/course/try_nbgrader.py   # some minutes

nbgrader generates the students' versions from `notebooks/assignments/source/`, and grades a class
of three: the solution, nothing written, and the solution with its first named mistake. A row is one
notebook of one student: nbgrader's points beside those of `varmini grade`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import nbgrader
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from assignments import proof  # noqa: E402

from varmini.grade.checks import ASSIGNMENTS  # noqa: E402
from varmini.grade.marking import grade  # noqa: E402
from varmini.runtime.machine import provenance  # noqa: E402
from varmini.runtime.tables import write_rows  # noqa: E402

TABLE = ROOT / "results" / "nbgrader.csv"
os.environ["PATH"] = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic


def code_of(path: Path) -> list[str]:
    """The sources of all cells."""
    return [cell.source for cell in nbformat.read(path, 4).cells]


def with_a_mistake(path: Path, assignment: str) -> tuple[str, str]:
    """A notebook with the first mistake that sits in one cell, and the mistake's name."""
    for mutant in proof.changes(assignment):
        notebook = nbformat.read(path, 4)
        found = [cell for cell in notebook.cells if cell.source.count(mutant.pairs[0]) == 1]
        if len(found) == 1 and found[0].cell_type == "code":
            found[0].source = mutant.apply(found[0].source)
            return nbformat.writes(notebook), mutant.name
    raise RuntimeError(f"{path.name}: no mistake fits into one cell")


def class_of(assignment: str) -> dict[str, tuple[str, str]]:
    """Three submissions: name to (notebook, what is in it)."""
    source = proof.notebook(assignment, proof.NOTEBOOKS / "source")
    wrong, name = with_a_mistake(source, assignment)
    return {
        "right": (source.read_text(), "the source notebook"),
        "empty": (proof.notebook(assignment).read_text(), "nothing written"),
        "wrong": (wrong, name),
    }


def main() -> int:
    origin, rows = provenance(), []
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        config = Config()
        config.CourseDirectory.root, config.CourseDirectory.course_id = folder, "varmini"
        api = NbGraderAPI(config=config)
        for assignment in ASSIGNMENTS:
            ours = proof.notebook(assignment)
            place = course / "source" / assignment
            place.mkdir(parents=True)
            shutil.copy(proof.NOTEBOOKS / "source" / ours.name, place)
            made = api.generate_assignment(assignment)
            if not made["success"]:
                raise RuntimeError(f"{assignment}: {made.get('error')} {made['log']}")
            released = course / "release" / assignment / ours.name
            same = code_of(released) == code_of(ours)
            for student, (text, what) in class_of(assignment).items():
                at = course / "submitted" / student / assignment / ours.name
                at.parent.mkdir(parents=True)
                at.write_text(text)
                done = api.autograde(assignment, student)
                if not done["success"]:
                    said = f"{done.get('error')} {done['log']}"
                    raise RuntimeError(f"{assignment}, {student}: {said}")
                with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
                    theirs = book.find_submission(assignment, student).score
                row = {"assignment": assignment, "student": student, "what": what}
                row |= {"students_version_is_ours": same}
                row |= {"nbgrader_points": theirs, "varmini_points": grade(assignment, at).earned}
                rows.append(row | {"nbgrader": nbgrader.__version__} | {
                    key: origin[key] for key in ("date", "hardware", "command", "commit")
                })  # fmt: skip
                print(json.dumps(row))
    write_rows(TABLE, rows)
    odd = [r for r in rows if not r["students_version_is_ours"]]
    odd += [r for r in rows if r["nbgrader_points"] != r["varmini_points"]]
    print(f"wrote {TABLE.relative_to(ROOT)}: {len(rows)} rows, {len(odd)} not as they must be")
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
