"""Proves the grader, end to end: every named mistake and every correct solution, one by one.

    python scripts/course/prove_grader.py          # writes results/grading.csv, some 20 minutes
    python scripts/course/prove_grader.py a4       # one assignment; the rows of the others stay

Each of them is written to a file and marked by `varmini.grade.grade`, in a process of its own.
Then, without the processes, 100 draws of inputs: the column "escapes of 100 seeds" says on how many
of them a mistake earned the points of the check that must catch it, or a correct solution lost any.
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
from tqdm import tqdm  # noqa: E402

from varmini.grade.checks import ASSIGNMENTS  # noqa: E402
from varmini.grade.exam import Exam  # noqa: E402
from varmini.grade.marking import grade  # noqa: E402
from varmini.runtime.machine import provenance  # noqa: E402
from varmini.runtime.tables import write_rows  # noqa: E402

TABLE = ROOT / "results" / "grading.csv"
SEED, SEEDS = 0, 100


def main(names: list[str]) -> int:
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    origin = provenance()
    failed = 0
    for assignment in names or ASSIGNMENTS:
        rows = [row for row in rows if row["assignment"] != assignment]
        wrong: dict[str, int] = {}
        expected = {m.name: (m.check, m.says) for m in proof.changes(assignment)}
        for kind, name, source in proof.cases(assignment):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "submission.py")
                path.write_text(source)
                report = grade(assignment, path, seed=SEED)
            verdict = proof.verdict(report.results)
            lost = [r for r in report.results if r.earned < r.points]
            check, mistake = expected.get(name, (None, ""))
            found = (lost[0].check, lost[0].mistake or lost[0].kind) if lost else (None, "")
            failed += found[0] != check or mistake not in ("", found[1])
            wrong[name] = 0
            row = {"assignment": assignment, "kind": kind, "name": name, **verdict}
            row["sentence"] = lost[0].message if lost else ""
            row["isolation"] = report.isolation
            rows.append(row | {k: origin[k] for k in ("date", "hardware", "command", "commit")})
            print(f"{assignment} {kind:<12}{name:<45}{verdict['caught by'] or 'full points'}")
        for seed in tqdm(range(SEEDS), desc=f"{assignment}, seeds"):
            exam = Exam(assignment, seed)
            for mutant in proof.changes(assignment):
                wrong[mutant.name] += proof.escapes(exam, mutant)
            for kind, name, source in proof.cases(assignment):
                if kind != "mistake":
                    wrong[name] += any(r.earned < r.points for r in proof.mark(exam, source))
        for row in rows:
            if row["assignment"] == assignment:
                row[f"escapes of {SEEDS} seeds"] = wrong[row["name"]]
                failed += bool(wrong[row["name"]])
        rows.sort(key=lambda row: row["assignment"])
        write_rows(TABLE, rows)
    print(f"wrote {TABLE.relative_to(ROOT)}: {len(rows)} rows, {failed} not as they must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
