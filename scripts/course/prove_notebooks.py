"""Breaks the package in one place at a time, and writes down which notebook cells notice.

    python scripts/course/prove_notebooks.py         # writes results/notebook_mutations.csv
    python scripts/course/prove_notebooks.py phi     # one mutation; the rows of the others stay

Each mutation changes one line in a temporary copy of the package, and the notebooks that teach that
line run against the copy with nbval, as in `make test`. A row is a cell that failed by itself: an
`assert` of it, or an output other than the saved one. Cells that fail because an earlier one did
are left out. `tests/course/test_notebook_mutations.py` keeps the table in step with the notebooks.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from varmini.runtime.machine import provenance  # noqa: E402
from varmini.runtime.tables import write_rows  # noqa: E402

TABLE = ROOT / "results" / "notebook_mutations.csv"


@dataclass(frozen=True)
class Mutation:
    """One line of the package, what it becomes, and the notebooks (by number) that teach it."""

    file: str
    line: str
    broken: str
    notebooks: tuple[str, ...]


MUTATIONS = {
    "residual": Mutation(  # Algorithm 1 without its subtraction: every map codes the features
        "quantizer.py", "residual = residual - added.detach()", "residual = residual", ("00", "03")
    ),
    "mask": Mutation(  # one map off: a map sees the inputs that are made from itself
        "scales.py",
        "return level[:, None] >= level[None, :]",
        "return level[:, None] + 1 >= level[None, :]",
        ("01", "05"),
    ),
    "guidance": Mutation(  # the sign: away from the class
        "filters.py",
        "return (1 + t) * conditional - t * unconditional",
        "return (1 - t) * conditional + t * unconditional",
        ("00", "07"),
    ),
    "phi": Mutation(  # left out
        "quantizer.py",
        "return self.phis[self.phi_index(k)](codes) if len(self.phis) else codes",
        "return codes",
        ("03",),
    ),
}


def notebook(number: str) -> Path:
    """The notebook with this number."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return path


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def checksum(source: str) -> str:
    """By which a row of the table finds its cell again."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def failures(mutation: Mutation, path: Path) -> dict[int, str]:
    """Runs a notebook against the broken package: {index of a code cell: what nbval says}.

    Raises:
        RuntimeError: when the line to be broken is not there, or the notebook did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "varmini", copy / "varmini")
        (copy / "data").symlink_to(ROOT / "data")
        broken = copy / "varmini" / "model" / mutation.file
        source = broken.read_text(encoding="utf-8")
        if source.count(mutation.line) != 1:
            raise RuntimeError(f"{mutation.file} holds {mutation.line!r} not once: mend MUTATIONS")
        broken.write_text(source.replace(mutation.line, mutation.broken), encoding="utf-8")
        (copy / "notebooks").mkdir()
        shutil.copy(path, copy / "notebooks")
        report = copy / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval"]
        command += ["--nbval-current-env", "--nbval-cell-timeout=900", f"--junitxml={report}"]
        subprocess.run(
            [*command, f"notebooks/{path.name}"],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
        if len(cases) != len(code_cells(path)):
            raise RuntimeError(f"{path.name}: {len(cases)} cells ran, not all")
        found = {i: case.find("failure") for i, case in enumerate(cases)}
        return {i: node.text or "" for i, node in found.items() if node is not None}


def verdict(said: str) -> tuple[str, str] | None:
    """("assert", its line) or ("output", ""); None for a cell that failed after another one."""
    said = re.sub(r"\x1b\[[0-9;]*m|#x1B\[[0-9;]*m", "", said)
    if "AssertionError" in said:
        lines = re.findall(r"^-+> \d+ (.*)$", said, re.M)
        return "assert", lines[0].strip() if lines else ""
    return ("output", "") if "Cell outputs differ" in said else None


def main(names: list[str]) -> int:
    if unknown := set(names) - set(MUTATIONS):
        known = ", ".join(MUTATIONS)
        print(f"no mutation is called {', '.join(unknown)}; there are: {known}", file=sys.stderr)
        return 2
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    origin = {k: v for k, v in provenance().items() if k in ("date", "hardware", "commit")}
    command = " ".join(["scripts/course/prove_notebooks.py", *names])
    for name in names or MUTATIONS:
        rows, mutation = [row for row in rows if row["mutation"] != name], MUTATIONS[name]
        for path in map(notebook, mutation.notebooks):
            cells, failed = code_cells(path), failures(mutation, path)
            noticed = {i: found for i, said in failed.items() if (found := verdict(said))}
            for i, (how, line) in noticed.items():
                row = {"mutation": name, "file": mutation.file, "notebook": path.stem, "how": how}
                row |= {"line": line or cells[i].splitlines()[0], "cell": checksum(cells[i])}
                rows.append(row | {"command": command} | origin)
            print(f"{name}, {path.stem}: {len(noticed)} of {len(cells)} cells notice")
    rows.sort(key=lambda row: list(MUTATIONS).index(row["mutation"]))
    write_rows(TABLE, rows)
    missed = sorted(set(MUTATIONS) - {row["mutation"] for row in rows})
    print(f"wrote {TABLE.relative_to(ROOT)}: {len(rows)} rows; not caught: {missed or None}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
