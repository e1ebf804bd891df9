"""Files that are handed in: what is read of them, and that none of them stops a class."""

import json
import os
import random

import pytest
from assignments import proof
from assignments.proof import code, notebook_of

from varmini.grade import marking as public
from varmini.grade.submission import read_submission
from varmini.grade.worker import statements


def test_what_is_taken_from_a_notebook(tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text(
        notebook_of(
            {"cell_type": "markdown", "source": "x = 1"},
            code(["%matplotlib inline\n", "a = 1"]),
            code("assert False", tags=["skip-grading"]),
            code("%%bash\nrm -rf /"),
            code("%%time\nb = 2"),
            code("def broken(:"),
        )
    )
    blocks = read_submission(path)
    assert [label for label, _ in blocks] == ["cell 2", "cell 5", "cell 6"]
    found, notes = statements(blocks)
    assert [(label, node.lineno) for label, node in found][1:] == [("cell 2", 2), ("cell 5", 2)]
    assert notes == ["cell 6, line 1: SyntaxError: invalid syntax"]


def test_damaged_notebooks_are_told_in_one_line(tmp_path):
    """300 seeded damages of a real notebook: it is read, or there is one ValueError."""
    path = tmp_path / "n.ipynb"
    cells = json.loads(proof.notebook("a4").read_text())["cells"]
    whole = notebook_of(*({**cell, "outputs": []} for cell in cells)).encode()
    rng = random.Random(0)
    good = bad = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(140)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            statements(read_submission(path))
            good += 1
        except ValueError as error:
            assert "\n" not in str(error) and "n.ipynb" in str(error)
            bad += 1
    assert good > 30 and bad > 30
    odd_cells = '{"cells": [3, {"cell_type": "code"}, {"cell_type": "code", "metadata": 1}]}'
    for strange in ("[]", "3", '{"cells": 3}', odd_cells, "[" * 10**5):
        path.write_text(strange)
        try:
            assert all(source == "" for _, source in read_submission(path))
        except ValueError as error:
            assert "n.ipynb is no notebook" in str(error)


DEEP = """
def deep(*args):
    found = []
    for _ in range(600):
        found = [found]
    return found


parameters = forward_flops = training_flops = fit = deep
optimum = interval = held_out = deep
"""


def test_no_file_stops_a_class(tmp_path):
    """Each of these once ended the whole run; the last file is marked all the same."""
    files = {
        "a_deep.py": (DEEP, "RecursionError"),
        "b_emoji.py": ("# " + "\N{GRINNING FACE}" * 400_000, "bytes of code, expected at most"),
        "c_control.py": ("# " + "\x01" * 900_000, "bytes of code, expected at most"),
        "d_cells.ipynb": (notebook_of(*[code("")] * 150_000), "is not there"),
        "e_comments.ipynb": (notebook_of(*[code("#")] * 150_000), "bytes of code, expected"),
        "f_surrogate.ipynb": (notebook_of(code("x = '\ud800'")), "is not there"),
        "g_zero.py": ("x = 1\0", "is not there"),
        "h_latin.py": (b"\xe9", "is no text in UTF-8"),
        "j_brackets.py": ("x = " + "(" * 10**5, "is not there"),
        "z_right.py": (proof.solution("a4"), ""),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "k_link.py").symlink_to(tmp_path / "z_right.py")
    (tmp_path / "l_dangling.py").symlink_to("nowhere")
    (tmp_path / "n_away").symlink_to(proof.NOTEBOOKS / "source")
    os.mkfifo(tmp_path / "m_pipe.py")
    said = {name: words for name, (_, words) in files.items()}
    said |= dict.fromkeys(("k_link.py", "l_dangling.py"), "cannot be read: a symbolic link")
    said["m_pipe.py"] = "cannot be read: no ordinary file"
    rows = {row["submission"]: row for row in public.grade_class("a4", tmp_path, seed=0)}
    assert list(rows) == sorted(said)
    assert [name for name in said if said[name] not in rows[name]["remarks"]] == []
    assert [row["earned"] for row in rows.values()] == [0] * (len(rows) - 1) + [25]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), MemoryError(), RecursionError()])
def test_a_failure_of_the_grader_itself_costs_one_file(tmp_path, monkeypatch, error):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1")
    real = public.grade

    def fails_once(*args, **options):
        monkeypatch.setattr(public, "grade", real)
        raise error

    monkeypatch.setattr(public, "grade", fails_once)
    first, second = public.grade_class("a4", tmp_path)
    assert first["remarks"] == f"could not be graded: {error!r}" and not first["earned"]
    assert "is not there" in second["remarks"]
