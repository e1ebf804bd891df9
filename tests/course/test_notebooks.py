"""The course's notebooks as they were saved: outputs, pictures, size of the cells, opening, end.

`make test` runs them with nbval as well; here is what nbval does not look at.
"""

import ast
import functools
import re
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ASSIGNMENTS = sorted((ROOT / "notebooks" / "assignments").rglob("*.ipynb"))
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
everything = pytest.mark.parametrize(
    "path", LESSONS + ASSIGNMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


@functools.cache
def read(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


def cells(path: Path, kind: str) -> list:
    return [cell for cell in read(path) if cell.cell_type == kind]


def outputs(path: Path) -> list:
    return [output for cell in cells(path, "code") for output in cell.outputs]


def pictures(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def comparable(cell) -> bool:
    """Whether nbval compares what this cell leaves."""
    return "nbval-ignore-output" not in cell.metadata.get("tags", []) and not re.search(
        r"NBVAL_IGNORE_OUTPUT", cell.source
    )


def test_the_course_is_complete():
    numbered = [path.stem[:3] for path in LESSONS if path.stem != "var_from_scratch"]
    assert numbered == [f"{n:02}_" for n in range(17)] and len(LESSONS) == len(numbered) + 1
    assert [path.stem[:3] for path in ASSIGNMENTS] == ["a1_", "a2_", "a3_", "a4_"] * 2
    assert len({path.stem for path in ASSIGNMENTS}) == 4  # the two versions have one name


def test_make_test_runs_every_notebook():
    said = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True).stdout
    for path in LESSONS + ASSIGNMENTS:
        assert str(path.relative_to(ROOT)) in said.split()


@everything
def test_nearly_every_cell_is_compared_and_none_is_skipped(path):
    code = cells(path, "code")
    tags = {tag for cell in code for tag in cell.metadata.get("tags", [])}
    assert not tags & {"nbval-skip", "skip-execution", "raises-exception", "nbval-raises-exception"}
    assert not any("NBVAL_SKIP" in cell.source for cell in code)
    assert sum(not comparable(cell) for cell in code) <= 0.1 * len(code)


@everything
def test_was_run_from_top_to_bottom_without_a_complaint(path):
    code = cells(path, "code")
    assert all(cell.source.strip() for cell in read(path))  # none is empty
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for o in outputs(path) if o.output_type == "error" or o.get("name") == "stderr"]


@everything
def test_strict_runs_need_no_sanitizing(path):
    """Nothing is printed that a second run would print otherwise, so nbval compares every word."""
    printed = "".join(output.get("text", "") for output in outputs(path))
    for kind in (r"0x[0-9a-f]{6}", r"\d\d:\d\d", r"20\d\d-\d\d-\d\d", r"\d%\|", r"it/s"):
        assert not re.search(kind, printed), kind
    if path in LESSONS:
        assert not re.search(r"\d\.\d{3}", printed)  # floats are asserted, not printed


def test_make_test_is_strict(tmp_path):
    """One other letter in a saved output fails, with the very options of `make test`."""
    recipe = re.search(r"\ntest:.*?\n\n", (ROOT / "Makefile").read_text(), re.S)[0]
    options = re.findall(r"--nbval\S*", recipe)
    assert "--nbval" in options and not any("lax" in o or "sanitize" in o for o in options)
    notebook = nbformat.v4.new_notebook()
    for count, saved in ((1, "a\n"), (2, "b\n")):
        output = nbformat.v4.new_output("stream", name="stdout", text=saved)
        cell = nbformat.v4.new_code_cell("print('a')", execution_count=count, outputs=[output])
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "n.ipynb")
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, tmp_path]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert "1 failed, 1 passed" in done.stdout and "FAILED n.ipynb::Cell 1" in done.stdout


@everything
def test_is_free_of_this_machine(path):
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"/(?:home|root|work|tmp|Users|mnt|usr|opt)/\w+|[A-Z]:\\\\\w+", text)
    assert not found and "\\r" not in text.replace("\\\\r", "")  # \r: what a progress bar leaves


@everything
def test_pages_need_no_network(path):
    kinds = {kind for output in outputs(path) for kind in output.get("data", {})}
    assert kinds <= {"text/plain", "image/png"}
    words = "".join(cell.source for cell in cells(path, "markdown"))
    assert not re.search(r"!\[|<img|<script|<iframe", words)


@lessons
def test_pictures(path):
    """At least three, none small or blurred: 2 pixels for each of a page's narrow column."""
    drawn = [cell for cell in cells(path, "code") if pictures(cell)]
    assert sum(map(pictures, drawn)) >= 3
    for cell in drawn:
        for output in cell.outputs:
            size = re.search(r"size (\d+)", output.get("data", {}).get("text/plain", ""))
            assert size is None or int(size[1]) >= 400


def names(nodes, context) -> set[str]:
    """Variables that these pieces of code read (ast.Load) or set (ast.Store)."""
    inner = (n for node in nodes for n in ast.walk(node))
    return {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


def checked(code: list) -> set[str]:
    """Variables in an `assert`, and all that their values were made from, without imports."""
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    found = names([node for node in nodes if isinstance(node, ast.Assert)], ast.Load)
    made = [
        (names(node.targets, ast.Store), names([node.value], ast.Load))
        for node in nodes
        if isinstance(node, ast.Assign)
    ]
    while new := {name for made_, of in made if made_ & found for name in of} - found:
        found |= new
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return found - {name.asname or name.name for node in imports for name in node.names}


BOXES = r"plots\.flow\(|whole_system\(|widgets\.\w+\("


@lessons
def test_asserts_stand_behind_the_pictures(path):
    """A cell that draws uses data that an `assert` checks, or that went into what one checks.

    Not a switch, a size or a model, which say nothing about data. A diagram of boxes has no data,
    and what a widget shows stands in a cell of its own (the next test).
    """
    code = cells(path, "code")
    data = checked(code) - {"SCALE", "device", "K", "L", "V", "tok", "var", "schedule", "quantizer",
                            "judge", "evaluator", "classes", "names"}  # fmt: skip
    for cell in code:
        if pictures(cell) and not re.search(BOXES, cell.source):
            assert names([ast.parse(cell.source)], ast.Load) & data, cell.source


WIDGETS = {  # each is a thin layer over a function
    "walk": "one_scale",
    "sampler": "draw_growing",
    "painter": "redraw",
    "tokens": "one_token",
    "scaling": "on_the_law",
}


@lessons
def test_what_a_widget_shows_is_shown_without_it_as_well(path):
    """So the page reads well where widgets do not run; a widget's cell keeps its first picture."""
    code = cells(path, "code")
    for name, function in WIDGETS.items():
        shown = [cell for cell in code if f"widgets.{name}(" in cell.source]
        assert all(pictures(cell) == 1 for cell in shown)
        assert not shown or any(f"{function}(" in cell.source for cell in code), name


@lessons
def test_cells_are_small(path):
    code = [cell.source for cell in cells(path, "code")]
    lines = [len(text.splitlines()) - 5 * ("find_spec" in text) for text in code]  # install lines
    assert statistics.median(lines) <= 8 and max(lines) <= 20
    words = [len(cell.source.split()) for cell in cells(path, "markdown")[1:-1]]
    assert statistics.median(words) <= 90  # no wall of text between the cells


@lessons
def test_opening_and_end(path):
    opening, end = read(path)[0].source, read(path)[-1].source
    title = "From scratch" if path.stem == "var_from_scratch" else path.stem[:2]
    assert opening.startswith(f"# {title} · ")
    for part in ("**Goals.**", "**Before you start.**", "**What it measures.**", "**Time.**"):
        assert part in opening
    assert re.search(r"minute.* two CPU cores", opening)
    assert "## Summary" in end and "## Sources" in end
    assert cells(path, "code")[0].source.startswith('SCALE = "cpu"')
    titles = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert re.search(r"^## \d+ · Exercises", titles, re.M)
    assert "<summary>Solutions</summary>" in titles
    assert any(re.match(r"def check\(", cell.source) for cell in cells(path, "code"))
