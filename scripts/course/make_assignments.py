"""Makes the students' notebooks out of those with solutions, and runs both.

    python scripts/course/make_assignments.py             # write and run everything
    python scripts/course/make_assignments.py a1 --no-run # write one, without outputs

`notebooks/assignments/source/NAME.ipynb` is edited by hand. In its cells, what stands between
`### BEGIN SOLUTION` and `### END SOLUTION` is replaced as `nbgrader generate_assignment` does it.
"""

from __future__ import annotations

import argparse
import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "assignments"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
SOLUTION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION\n(?P<body>.*?)^[ \t]*### END SOLUTION[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


def names() -> list[str]:
    """The assignments that have a source notebook."""
    return sorted(path.stem for path in (FOLDER / "source").glob("*.ipynb"))


def solutions(notebook: NotebookNode) -> list[str]:
    """The lines of all solutions, stripped, without comments."""
    bodies = [m["body"] for cell in notebook.cells for m in SOLUTION.finditer(cell.source)]
    lines = [line.partition("  #")[0].strip() for body in bodies for line in body.splitlines()]
    return [line for line in lines if line]


def student_version(source: NotebookNode) -> NotebookNode:
    """The notebook without solutions and without outputs; all else stays as it is.

    Raises:
        ValueError: when a marker has no partner.
    """
    notebook = copy.deepcopy(source)
    for cell in notebook.cells:
        cell.source = SOLUTION.sub(
            lambda m: "\n".join(m["indent"] + line for line in STUB), cell.source
        )
        if "BEGIN SOLUTION" in cell.source or "END SOLUTION" in cell.source:
            raise ValueError(f"cell {cell.id}: a solution marker without its partner")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def run(notebook: NotebookNode) -> None:
    """Executes a notebook in place."""
    from nbclient import NotebookClient

    settings = {"timeout": 600, "coalesce_streams": True}  # one output, however print was flushed
    NotebookClient(notebook, resources={"metadata": {"path": str(FOLDER)}}, **settings).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, different on each run
    notebook.metadata = {
        "kernelspec": notebook.metadata.kernelspec,
        "language_info": {"name": "python"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="such as a1; all without")
    parser.add_argument("--no-run", action="store_true", help="write without executing")
    options = parser.parse_args()
    for name in names():
        if options.names and not name.startswith(tuple(options.names)):
            continue
        source = nbformat.read(FOLDER / "source" / f"{name}.ipynb", 4)
        student = student_version(source)
        for notebook, path in (
            (source, FOLDER / "source" / f"{name}.ipynb"),
            (student, FOLDER / f"{name}.ipynb"),
        ):
            if not options.no_run:
                run(notebook)
            nbformat.write(notebook, path)
            print(f"wrote {path.relative_to(FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
