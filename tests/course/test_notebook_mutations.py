"""The table of what the notebooks notice when the package is broken: complete, and up to date."""

import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "course"))

import prove_notebooks  # noqa: E402

with prove_notebooks.TABLE.open(newline="") as file:
    ROWS = list(csv.DictReader(file))


@pytest.mark.parametrize("name", prove_notebooks.MUTATIONS)
def test_every_mutation_is_caught_by_an_assert_of_each_notebook_that_ran(name):
    mutation = prove_notebooks.MUTATIONS[name]
    found = {r["notebook"][:2] for r in ROWS if r["mutation"] == name and r["how"] == "assert"}
    assert found == set(mutation.notebooks)
    assert (ROOT / "varmini" / "model" / mutation.file).read_text().count(mutation.line) == 1


def test_the_table_names_cells_as_they_are_now():
    """When this fails, `scripts/course/prove_notebooks.py MUTATION` runs those notebooks again."""
    assert {row["mutation"] for row in ROWS} == set(prove_notebooks.MUTATIONS)
    for row in ROWS:
        cells = prove_notebooks.code_cells(prove_notebooks.notebook(row["notebook"][:2]))
        (cell,) = [c for c in cells if prove_notebooks.checksum(c) == row["cell"]]
        assert row["line"] in cell and row["date"] and row["commit"] and row["hardware"]


def test_a_cell_that_fails_after_another_one_is_no_witness():
    assert prove_notebooks.verdict("NameError: name 'x' is not defined") is None
    assert prove_notebooks.verdict("Cell outputs differ\n>>>") == ("output", "")
    said = "#x1B[31mAssertionError\n#x1B[32m----> #x1B[39m#x1B[32m2#x1B[39m assert a  # why\n"
    assert prove_notebooks.verdict(said) == ("assert", "assert a  # why")
