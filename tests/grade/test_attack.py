"""The attack on the grader: what it found stays mended; right work of its kinds is accepted."""

import pytest
from assignments import proof
from assignments.attack.submissions import cheats, table

from varmini.grade.checks import ASSIGNMENTS
from varmini.grade.exam import Exam
from varmini.runtime.tables import RESULTS, read_cells

COUNTING = [
    cheat
    for cheat in [*cheats("a1"), *cheats("a3")]
    if "keeps count" in cheat.changed or "own loop recorded" in cheat.changed
]
FOUND = [  # mutants that escaped, or brought the grader to an error: the check that catches them
    ("a3", "if mass >= 1:", "if mass > 1:", "keep_typical"),
    ("a4", "+ 2) * w**2\n", "+ 2) * w**9\n", "forward_flops"),  # a count past 64 bits
]


def test_the_committed_table_shows_no_fault():
    rows = read_cells(RESULTS / "attack.csv")
    assert [row["changed"] for row in rows if row["outcome"].isupper()] == []
    assert sum(row["outcome"] == "caught" for row in rows) >= 296


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_right_work_that_looks_different_is_accepted(assignment):
    exam, solution = Exam(assignment, 6), proof.solution(assignment)
    for name, code in table("right")[assignment].items():
        lost = [r for r in proof.mark(exam, f"{solution}\n\n{code}") if r.earned < r.points]
        assert lost == [], name


@pytest.mark.parametrize("assignment, old, new, check", FOUND)
def test_what_the_attack_found_is_caught(assignment, old, new, check):
    source = proof.Change("", (old, new)).apply(proof.solution(assignment))
    for seed in range(3):
        results = proof.mark(Exam(assignment, seed), source)
        assert [r.check for r in results if r.earned < r.points] == [check]


@pytest.mark.parametrize("cheat", COUNTING, ids=lambda cheat: f"{cheat.assignment} {cheat.changed}")
def test_functions_that_keep_count_of_the_graders_calls_earn_nothing(cheat):
    """They know the order in which the references call them, and what these ask."""
    for seed in range(3):
        results = proof.mark(Exam(cheat.assignment, seed), cheat.source)
        assert sum(result.earned for result in results) == cheat.honest
