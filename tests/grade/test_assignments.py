"""The assignments' notebooks: students' versions in step with the sources, no solution in them."""

import ast
import copy
import json
import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from assignments import proof

from varmini.grade import compare, credit
from varmini.grade.checks import ASSIGNMENTS, load
from varmini.grade.exam import Exam
from varmini.runtime.tables import read_rows

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "course"))
import make_assignments

pytestmark = pytest.mark.parametrize("assignment", ASSIGNMENTS)


def read(assignment: str, source: bool = False):
    folder = proof.NOTEBOOKS / "source" if source else proof.NOTEBOOKS
    return nbformat.read(proof.notebook(assignment, folder), 4)


def bare(notebook) -> dict:
    """A notebook without what running it leaves."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def test_each_known_mistake_changes_the_reference_and_has_its_sentence(assignment):
    known = load(assignment)
    assert [old for old in known.code if known.source.count(old) != 1] == []
    names = {name for made in known.code.values() for name in made}
    assert names == {name for check in known.checks for name in check.mistakes}


def test_the_students_version_is_made_of_the_source(assignment):
    made = make_assignments.student_version(read(assignment, source=True))
    assert bare(read(assignment)) == bare(made)


def test_no_solution_leaks(assignment):
    """No line of a solution stands anywhere in the students' file: sources, outputs, metadata."""
    student, source = read(assignment), read(assignment, source=True)
    text = json.dumps(student, ensure_ascii=False).replace('\\"', '"')
    lines = make_assignments.solutions(source)
    assert len(lines) >= 15 and any(lines[0] in cell.source for cell in source.cells)
    leaked = [line for line in lines if len(line) > 12 and line in text]
    assert leaked == []
    assert "SOLUTION" not in text
    stubs = sum("raise NotImplementedError()" in c.source for c in student.cells[1:])
    assert stubs == sum("BEGIN SOLUTION" in c.source for c in source.cells)


def code_lines(source: str) -> list[str]:
    """As `ast.unparse` writes them: without docstrings, comments and blank lines."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return [line.strip() for line in ast.unparse(tree).splitlines() if line.strip()]


def test_no_notebook_holds_a_solution(assignment):
    """No ten lines in a row, and none of the longer functions as a whole."""
    source = proof.solution(assignment)
    lines, functions = code_lines(source), [n for n in ast.parse(source).body if hasattr(n, "args")]
    bodies = [code_lines("\n".join(map(ast.unparse, f.body)))[:10] for f in functions]
    runs = {tuple(lines[i : i + 10]) for i in range(len(lines) - 9)}
    runs |= {tuple(body) for body in bodies if len(body) >= 4}
    for path in proof.NOTEBOOKS.parent.glob("*.ipynb"):
        cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        text = "\n" + "\n".join(line for cell in cells for line in code_lines(cell)) + "\n"
        assert [run for run in runs if "\n" + "\n".join(run) + "\n" in text] == [], path.name


def test_a_marker_without_a_partner_is_an_error(assignment):
    source = read(assignment, source=True)
    cell = next(cell for cell in source.cells if "### END SOLUTION" in cell.source)
    cell.source = cell.source.replace("### END SOLUTION", "")
    with pytest.raises(ValueError, match="without its partner"):
        make_assignments.student_version(source)


def test_nbgrader_metadata(assignment):
    """Every function has its solution cell and its check cell, and the points are the grader's."""
    cells = [c for c in read(assignment, source=True).cells if "nbgrader" in c.metadata]
    keys = {"grade", "grade_id", "locked", "schema_version", "solution", "task"}
    for cell in cells:
        extra = {"points"} if cell.metadata.nbgrader.grade else set()
        assert set(cell.metadata.nbgrader) == keys | extra
    ids = [cell.metadata.nbgrader.grade_id for cell in cells]
    assert len(set(ids)) == len(ids)
    points, of_task = Counter(), Counter()
    for check in load(assignment).checks:
        points[check.function] += check.points
        of_task[check.task] += check.points
    marked = {
        cell.source.removeprefix("check(").removesuffix(")"): cell.metadata.nbgrader.points
        for cell in cells
        if cell.metadata.nbgrader.grade
    }
    assert marked == points and sum(points.values()) == 25
    texts = [c.source for c in read(assignment).cells if c.cell_type == "markdown"]
    titles = [re.search(r"## Task (\d+) .*\(([\d +]+) points?\)", text) for text in texts]
    said = {int(t[1]): sum(map(int, t[2].split(" + "))) for t in titles if t}
    assert said == of_task and "**Points.** 25" in texts[0] and "**Time.** About" in texts[0]
    for cell in cells:
        assert cell.metadata.nbgrader.solution == ("BEGIN SOLUTION" in cell.source)
        skipped = "skip-grading" in cell.metadata.get("tags", [])
        assert not (skipped and cell.metadata.nbgrader.solution)


@pytest.mark.parametrize("source", [False, True])
def test_executed_top_to_bottom_without_an_error(assignment, source):
    cells = [c for c in read(assignment, source).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs)
    total = cells[-1].outputs[0].text
    assert total == ("25 of 25 points\n" if source else "0 of 25 points\n")


def test_nbgrader_was_tried(assignment):
    """`scripts/course/try_nbgrader.py` wrote the table: nbgrader itself is not installed here."""
    table = Path(__file__).parents[2] / "results" / "nbgrader.csv"
    rows = [row for row in read_rows(table) if row["assignment"] == assignment]
    points = {row["student"]: row["nbgrader_points"] for row in rows}
    assert points["right"] == 25 and points["empty"] == 0 and 0 < points["wrong"] < 25
    for row in rows:
        assert row["students_version_is_ours"] == "True" and row["commit"] and row["date"]
        assert row["nbgrader_points"] == row["varmini_points"]


def test_a_picture_waits_for_all_that_it_uses(assignment):
    """Else a student who leaves out a task meets an error in a cell that is not theirs."""
    names = {call.function for call in Exam(assignment, 0).calls}
    made: dict[str, set[str]] = {}  # by a cell that waits: its variables, and for which functions
    for cell in (cell for cell in read(assignment).cells if cell.cell_type == "code"):
        nodes = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name)]
        stored = {n.id for n in nodes if isinstance(n.ctx, ast.Store)}
        used = {n.id for n in nodes} - stored
        waits = re.search(r"check\.done\((.*?)\)", cell.source)
        waits = set(re.findall(r"\w+", waits[1])) if waits else set()
        if waits:
            said = re.findall(r"waits for: (.*?)\"", cell.source)
            assert waits <= names and all(set(words.split(", ")) == waits for words in said)
            needs = (used & names).union(*(made[name] for name in used & set(made)))
            assert needs <= waits, cell.source
        made |= dict.fromkeys(stored, waits)


def test_small_cells(assignment):
    lengths = [
        len(c.source.splitlines())
        for c in read(assignment, source=True).cells
        if c.cell_type == "code"
    ]
    assert sorted(lengths)[len(lengths) // 2] <= 8 and max(lengths) <= 20


def test_hints_quote_what_the_grader_says(assignment):
    """Each task has hints, and what they quote as the check's words are the check's words."""
    texts = [c.source for c in read(assignment).cells if c.cell_type == "markdown"]
    hints = [text for text in texts if text.startswith("<details><summary>Hints")]
    tasks = {check.task for check in load(assignment).checks}
    assert [int(re.search(r"task (\d+)", h)[1]) for h in hints] == sorted(tasks)
    said = " ".join(s for check in load(assignment).checks for s in check.mistakes.values())
    for module in (compare, credit):
        said += re.sub(r'"\s+f?"', "", Path(module.__file__).read_text())
    for hint in hints:
        for bold in re.findall(r"\*\*(.*?)\*\*", hint):
            if " says " in bold:
                quotes = re.findall(r'"([^"]+)"', bold)
                assert quotes
                for quote in quotes:
                    start = re.split(r"[(\d.]", quote)[0].strip()
                    assert start in said, f"{assignment}: no message says {quote!r}"


def test_hints_quote_the_errors_that_students_meet(assignment):
    """Each error in bold is one that a slip ends in, word for word; each slip's error is there."""
    texts = [c.source for c in read(assignment).cells if c.cell_type == "markdown"]
    hints = [text for text in texts if text.startswith("<details><summary>Hints")]
    quoted = {}
    for task, hint in enumerate(hints, 1):
        for bold in re.findall(r"\*\*(.*?)\*\*", hint):
            kind = re.search(r"\w+Error", bold)
            if kind or "returned shape" in bold:
                for quote in re.findall(r'"([^"]+)"', bold):
                    words = ".*".join(re.escape(part.strip()) for part in quote.split("..."))
                    quoted[task, quote] = f"{kind[0]}: .*{words}" if kind else words
    exam, met = Exam(assignment, 0), set()  # the notebook's inputs
    for slip in proof.changes(assignment, "errors"):
        results = proof.mark(exam, slip.apply(proof.solution(assignment)))
        result = next(result for result in results if result.check == slip.check)
        assert slip.says in result.message, slip.name
        found = {
            (task, quote)
            for (task, quote), words in quoted.items()
            if task == result.task and re.search(words, result.message)
        }
        assert found, f"{slip.name}: no hint of task {result.task} quotes {result.message!r}"
        met |= found
    assert {key for key in quoted if "Error" in quoted[key]} <= met
