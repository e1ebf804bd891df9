"""Proves the grader, end to end: every named mistake and every correct solution, one by one.

    python scripts/course/prove_grader.py          # writes results/grading.csv, some 20 minutes
    python scripts/course/prove_grader.py a4       # one assignment; the rows of the others stay
    python scripts/course/prove_grader.py a4 rows  # in two parts, which may run side by side:
    python scripts/course/prove_grader.py a4 seeds # the last column, of rows that are there

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
COLUMN = f"escapes of {SEEDS} seeds"


def marked(assignment: str) -> tuple[list[dict], int]:
    """The rows of an assignment but for the last column, and how many are not as they must be."""
    rows, failed, origin = [], 0, provenance()
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
        row = {"assignment": assignment, "kind": kind, "name": name, **verdict}
        row["sentence"] = lost[0].message if lost else ""
        row["isolation"] = report.isolation
        rows.append(row | {k: origin[k] for k in ("date", "hardware", "command", "commit")})
        told = verdict["caught by"] or "full points"
        print(f"{assignment} {kind:<12}{name:<45}{told}", flush=True)
    return rows, failed


def escapes(assignment: str, seeds: range = range(SEEDS)) -> dict[str, int]:
    """By name, on how many seeds a mistake earned points or a correct solution lost any."""
    wrong = {name: 0 for _, name, _ in proof.cases(assignment)}
    for seed in tqdm(seeds, desc=f"{assignment}, seeds"):
        exam = Exam(assignment, seed)
        for mutant in proof.changes(assignment):
            wrong[mutant.name] += proof.escapes(exam, mutant)
        for kind, name, source in proof.cases(assignment):
            if kind != "mistake":
                wrong[name] += any(r.earned < r.points for r in proof.mark(exam, source))
    return wrong


def put(assignment: str, made: list[dict] | None, wrong: dict[str, int]) -> list[dict]:
    """Writes rows, or the last column of those that are there, into the table as it is now."""
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    old = {row["name"]: row for row in rows if row["assignment"] == assignment}
    rows = [row for row in rows if row["assignment"] != assignment]
    for row in old.values() if made is None else made:
        last = wrong.get(row["name"], row.get(COLUMN, ""))  # rows made anew have none
        rows.append(row | {COLUMN: last})
    rows.sort(key=lambda row: row["assignment"])
    write_rows(TABLE, rows)
    return rows


def main(words: list[str]) -> int:
    parts, failed = [word for word in words if word in ("rows", "seeds")], 0
    for assignment in [word for word in words if word not in parts] or ASSIGNMENTS:
        made, wrong = None, {}
        if parts != ["seeds"]:
            made, more = marked(assignment)
            failed += more
        if parts != ["rows"]:
            wrong = escapes(assignment)
            failed += sum(map(bool, wrong.values()))
        rows = put(assignment, made, wrong)
    print(f"wrote {TABLE.relative_to(ROOT)}: {len(rows)} rows, {failed} not as they must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
