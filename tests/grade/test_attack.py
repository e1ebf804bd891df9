"""The attack on the grader: what it found stays mended, and the table is of these submissions."""

from collections import Counter

import pytest
from assignments import proof
from assignments.attack.submissions import cheats, submissions

from varmini.grade.exam import Exam
from varmini.runtime.tables import RESULTS, read_cells

COUNTING = [
    cheat
    for cheat in [*cheats("a1"), *cheats("a3")]
    if "keeps count" in cheat.changed or "own loop recorded" in cheat.changed
]


def test_the_committed_table_has_all_of_the_attack_and_no_fault():
    rows = read_cells(RESULTS / "attack.csv")
    made = [(s.assignment, s.kind, s.changed) for s in submissions()]
    assert [(r["assignment"], r["kind"], r["changed"]) for r in rows] == made
    assert [row["changed"] for row in rows if row["outcome"].isupper()] == []
    kinds = Counter(row["kind"] for row in rows if row["outcome"] != "equivalent")
    assert kinds["wrong"] >= 296 and kinds["right"] >= 38 and kinds["dishonest"] >= 51


@pytest.mark.parametrize("cheat", COUNTING, ids=lambda cheat: f"{cheat.assignment} {cheat.changed}")
def test_functions_that_keep_count_of_the_graders_calls_earn_nothing(cheat):
    """They know the order in which the references call them, and what these ask."""
    for seed in range(3):
        results = proof.mark(Exam(cheat.assignment, seed), cheat.source)
        assert sum(result.earned for result in results) == cheat.honest
