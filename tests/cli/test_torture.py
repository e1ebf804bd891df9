"""A short, seeded selection of `make torture`; all of it takes up to an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "section, options",
    [("kill", ["--kills", "10"]), ("rubbish", ["--cases", "500"])],
    ids=["kill", "rubbish"],
)
def test_a_selection_of_the_torture_fails_nowhere(section, options, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torture", section, *options, "--out", str(tmp_path / "t.csv")],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert " 0 failed," in done.stdout.splitlines()[-1]
    rows = (tmp_path / "t.csv").read_text().splitlines()
    assert len(rows) > 5 and rows[0].startswith("section,what,tried,failed,seed")
