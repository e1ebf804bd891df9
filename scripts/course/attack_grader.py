"""Attacks the grader afresh: submissions that it has never seen, wrong, right and dishonest.

    python scripts/course/attack_grader.py                   # goes on where results/attack.csv ends
    python scripts/course/attack_grader.py a3 dishonest      # only these

The wrong ones are mostly made by machine (`tests/assignments/attack/mutations.py`). They are marked
in one process, on the inputs of three random seeds, by the same checks as any submission; right and
dishonest ones by `grade`, each three times in a process of its own. A row is made again when its
code has changed. Delete the table to start anew.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from assignments import proof  # noqa: E402
from assignments.attack.submissions import Submission, submissions  # noqa: E402
from tqdm import tqdm  # noqa: E402

from varmini.grade.calls import OutOfTime  # noqa: E402
from varmini.grade.exam import Exam  # noqa: E402
from varmini.grade.marking import grade, seeds  # noqa: E402
from varmini.runtime.machine import provenance  # noqa: E402
from varmini.runtime.tables import read_cells, write_rows  # noqa: E402

TABLE = ROOT / "results" / "attack.csv"
SEEDS, SECONDS = (0, 1, 2), 30
GOOD = {"wrong": "caught", "right": "all points", "dishonest": "no points but honest ones"}
BAD = {"wrong": "ESCAPED", "right": "LOST POINTS", "dishonest": "POINTS NOT EARNED"}

exam = cache(Exam)


def here(submission: Submission, seed: int) -> dict[str, Any]:
    """Marked in this process, which no wrong one tries to leave."""
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        results = proof.mark(exam(submission.assignment, seed), submission.source)
    finally:
        signal.alarm(0)
    return proof.verdict(results) | {"isolation": "none: in one process"}


def ring(*_: Any) -> None:
    raise OutOfTime("took too long")


def apart(submission: Submission, seed: int) -> dict[str, Any]:
    """Marked by `grade`, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = submission.file(Path(folder))
        try:
            report = grade(submission.assignment, path, seed=seed)
        except ValueError as error:
            return {"earned": 0, "points": 25, "caught by": f"refused: {error}", "isolation": ""}
    return proof.verdict(report.results) | {"isolation": report.isolation}


def row_of(submission: Submission) -> dict[str, Any]:
    """A submission on all seeds."""
    mark = here if submission.kind == "wrong" else apart
    found = [mark(submission, seed) for seed in SEEDS]
    earned = [verdict["earned"] for verdict in found]
    points = found[0]["points"]
    fine = {
        "wrong": max(earned) < points,
        "right": min(earned) == points,
        "dishonest": max(earned) <= submission.honest,
    }[submission.kind]
    outcome = (GOOD if fine else BAD)[submission.kind]
    if submission.equivalent:
        outcome = "equivalent" if min(earned) == points else "CAUGHT, BUT LISTED AS EQUIVALENT"
    return {
        "assignment": submission.assignment, "kind": submission.kind,
        "changed": submission.changed, "outcome": outcome,
        "earned": " ".join(map(str, earned)), "points": points,
        "caught by": found[0]["caught by"], "why": submission.equivalent,
        "seeds": " ".join(map(str, SEEDS)), "isolation": found[0]["isolation"],
    }  # fmt: skip


def main(words: list[str]) -> int:
    kept = {}
    if TABLE.exists():
        kept = {(row["assignment"], row["kind"], row["changed"]): row for row in read_cells(TABLE)}
    origin, rows = provenance(), []
    everything = list(submissions())
    for submission in tqdm(everything):
        key = submission.assignment, submission.kind, submission.changed
        code = "".join(f"{n:02x}" for n in seeds(0, [("", submission.source)])[1:7])
        old = kept.get(key)
        wanted = not words or {submission.assignment, submission.kind} & set(words)
        if old is None or old["code"] != code or old["outcome"].isupper():
            if not wanted:
                continue
            old = row_of(submission) | {"code": code}
            old |= {name: origin[name] for name in ("date", "hardware", "command", "commit")}
            if old["outcome"].isupper():
                tqdm.write(f"{old['outcome']}: {' · '.join(key)} ({old['earned']})")
        rows.append(old)
        kept[key] = old
        if len(rows) % 20 == 0 or submission is everything[-1]:
            write_rows(TABLE, list(kept.values()))
    write_rows(TABLE, rows)
    for (kind, outcome), count in sorted(Counter((r["kind"], r["outcome"]) for r in rows).items()):
        print(f"{kind:<10} {outcome:<30} {count}")
    return int(any(row["outcome"].isupper() for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
