"""The grader is proven: named mistakes are caught and named, other correct solutions pass."""

import csv
import re
from pathlib import Path

import pytest
from assignments import proof

from varmini.grade.checks import ASSIGNMENTS
from varmini.grade.exam import Exam

TABLE = Path(__file__).parents[2] / "results" / "grading.csv"
COLUMNS = ("assignment", "kind", "name", "earned", "points", "caught by", "named")
SEED = 1  # the committed table was made with other inputs


@pytest.fixture(scope="module", params=ASSIGNMENTS)
def table(request):
    """(assignment, its rows as they come out now)."""
    exam = Exam(request.param, SEED)
    rows = []
    for kind, name, source in proof.cases(request.param):
        verdict = proof.verdict(proof.mark(exam, source))
        rows.append({"assignment": request.param, "kind": kind, "name": name, **verdict})
    return request.param, rows


def test_every_mistake_is_caught_by_the_check_that_names_it(table):
    assignment, rows = table
    found = {
        row["name"]: (row["caught by"].partition(" ")[0], row["named"] or row["seems"])
        for row in rows
        if row["kind"] == "mistake"
    }
    mutants = proof.changes(assignment)
    assert found.keys() == {m.name for m in mutants} and len(mutants) >= 30
    for mutant in mutants:
        check, said = found[mutant.name]
        assert (check, mutant.says and said) == (mutant.check, mutant.says), mutant.name


def test_every_correct_solution_earns_all_points(table):
    _, rows = table
    rows = [row for row in rows if row["kind"] != "mistake"]
    assert len(rows) >= 1 + 3 + 7
    assert [row for row in rows if row["earned"] != row["points"]] == []
    assert {row["points"] for row in rows} == {25}


def test_the_committed_table_is_what_comes_out(table):
    assignment, rows = table
    with TABLE.open(newline="") as file:
        committed = [row for row in csv.DictReader(file) if row["assignment"] == assignment]
    assert [{k: row[k] for k in COLUMNS} for row in committed] == [
        {k: str(row[k]) for k in COLUMNS} for row in rows
    ]
    assert {row["escapes of 100 seeds"] for row in committed} == {"0"}  # by `prove_grader.py`


def test_a_mistake_costs_one_task(table):
    """Later functions are judged with the student's own earlier ones."""
    assignment, rows = table
    tasks = {check.name: check.task for check in Exam(assignment, SEED).checks}
    lost = {row["name"]: {tasks[name] for name in row["caught by"].split()} for row in rows}
    assert {name for name, found in lost.items() if len(found) > 1} == set()


COMBINED = [  # assignment, mistakes, points that are left
    ("a1", ["up with aligned corners", "levels rounded down", "any hole empties a window"], 17),
    ("a1", ["padding counted as zeros", "decode uses the first span everywhere"], 20),
    ("a2", ["softmax over the queries", "layer norm without eps", "mask inverted"], 19),
    ("a2", ["mask transposed", "maps counted from one", "DiT's order of the modulations"], 18),
    ("a3", ["guidance sign", "min-p rules out with zero", "rows with the class twice"], 18),
    ("a3", ["cond and uncond swapped", "the worst survive"], 20),
    ("a3", ["min-p rules out with zero", "no min-p in the search"], 20),
    ("a4", ["a negative floor allowed", "both tails on each side"], 16),
]


@pytest.mark.parametrize("assignment, names, points", COMBINED)
def test_several_mistakes_cost_their_own_tasks(assignment, names, points):
    source = proof.solution(assignment)
    for mutant in (m for m in proof.changes(assignment) if m.name in names):
        source = mutant.apply(source)
    results = proof.mark(Exam(assignment, 4), source)
    assert sum(r.earned for r in results) == points, [r for r in results if not r.earned]


def test_loops_that_call_nothing_earn_nothing():
    """A wrong `guide`, and loops that do without guidance of their own accord."""
    honest = proof.solution("a3").replace("return (1 + t) * cond - t * uncond", "return cond")
    source = re.sub(r"= guide\(cond, .*\)", "= cond", honest)
    earned = [sum(r.earned for r in proof.mark(Exam("a3", 4), text)) for text in (source, honest)]
    assert earned == [15, 22]
