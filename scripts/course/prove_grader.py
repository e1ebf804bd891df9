"""Proves the grader, end to end: every named mistake and every correct solution, one by one.

    python scripts/course/prove_grader.py          # writes results/grading.csv, some ten minutes
    python scripts/course/prove_grader.py a4       # one assignment; the rows of the others stay

Each of them is written to a file and marked by `varmini.grade.grade`, in a process of its own.
`tests/grade/test_grade_proof.py` does the same without the processes and compares with the table.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from assignments import proof  # noqa: E402

from varmini.grade.checks import ASSIGNMENTS  # noqa: E402
from varmini.grade.marking import grade  # noqa: E402
from varmini.runtime.machine import provenance  # noqa: E402
from varmini.runtime.tables import write_rows  # noqa: E402

TABLE = ROOT / "results" / "grading.csv"
SEED = 0


def main(names: list[str]) -> int:
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    origin = provenance()
    failed = 0
    for assignment in names or ASSIGNMENTS:
        rows = [row for row in rows if row["assignment"] != assignment]
        expected = {m.name: (m.check, m.mistake) for m in proof.mutants(assignment)}
        for kind, name, source in proof.cases(assignment):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "submission.py")
                path.write_text(source)
                report = grade(assignment, path, seed=SEED)
            verdict = proof.verdict(report.results)
            lost = [r for r in report.results if r.earned < r.points]
            found = (lost[0].check, lost[0].mistake) if lost else None
            failed += found != expected.get(name)
            row = {"assignment": assignment, "kind": kind, "name": name, **verdict}
            row["sentence"] = lost[0].message if lost else ""
            row["isolation"] = report.isolation
            rows.append(row | {k: origin[k] for k in ("date", "hardware", "command", "commit")})
            print(f"{assignment} {kind:<12}{name:<45}{verdict['caught by'] or 'full points'}")
        rows.sort(key=lambda row: row["assignment"])
        write_rows(TABLE, rows)
    print(f"wrote {TABLE.relative_to(ROOT)}: {len(rows)} rows, {failed} not as they must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
