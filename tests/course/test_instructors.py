"""The students' archive holds no solution and works; with the instructors' it is the checkout."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from assignments import proof

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "course"))
import instructors

ROOT = instructors.ROOT
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
PASSPHRASE = "four words are enough"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The students' archive, unpacked."""
    folder = tmp_path_factory.mktemp("students")
    instructors.students(folder / "students.tar.gz")
    with tarfile.open(folder / "students.tar.gz") as archive:
        archive.extractall(folder / "tree", filter="data")
    return folder / "tree"


def names(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
    return {p.relative_to(folder).as_posix() for p in files}


def test_what_a_leak_is():
    (of, body), *_ = [pair for pair in instructors.solutions().items() if len(pair[1]) > 4]
    indented = "\n\n".join("    " + line + "  # so" for line in body[1:4])
    notebook = {"cells": [{"source": [line + "\n" for line in body[:3]]}]}
    assert instructors.leaks("x.py", indented.encode()) == [of]
    assert instructors.leaks("x.ipynb", json.dumps(notebook).encode()) == [of]
    assert instructors.leaks("x.py", "\n".join([body[0], "pass", *body[1:3]]).encode()) == []


def test_the_students_archive_holds_no_solution(tree):
    found = names(tree)
    assert not [name for name in found if "/source/" in name or name.startswith("tests/")]
    assert {"README.md", "notebooks/assignments/a3_sampler.ipynb"} <= found
    for name in found:
        assert instructors.leaks(name, (tree / name).read_bytes()) == [], name


def test_grading_and_notebooks_work_from_it(tree, tmp_path):
    env = os.environ | {"PYTHONPATH": str(tree)}
    run = {"cwd": tree, "env": env, "capture_output": True, "text": True}
    (tmp_path / "mine.py").write_text(proof.solution("a4"))
    for path, points in ((tmp_path / "mine.py", "25 of 25"),
                         (tree / "notebooks/assignments/a4_scaling.ipynb", "0 of 25")):  # fmt: skip
        command = [sys.executable, "-m", "varmini", "grade", "a4", str(path)]
        assert points in subprocess.run(command, **run).stdout
    cells = json.loads((tree / "notebooks/assignments/a4_scaling.ipynb").read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    where = "import varmini; assert varmini.__file__.startswith(r'%s')" % tree  # noqa: UP031
    (tmp_path / "cells.py").write_text("\n\n".join([where, *code]))
    done = subprocess.run([sys.executable, str(tmp_path / "cells.py")], **run)
    assert done.returncode == 0 and done.stdout.endswith("0 of 25 points\n"), done.stderr


@pytest.mark.skipif(instructors.shutil.which("gpg") is None, reason="no gpg")
def test_both_archives_are_the_checkout(tree, tmp_path):
    archive, key = tmp_path / "instructors.gpg", tmp_path / "key"
    key.write_text(PASSPHRASE + "\n")
    made = instructors.main(["instructors", str(archive), "--passphrase-file", str(key)])
    assert made == 0 and b"BEGIN SOLUTION" not in archive.read_bytes()
    with pytest.raises(RuntimeError, match="gpg failed"):
        instructors.unpack(archive, tmp_path / "no", PASSPHRASE + "!")
    instructors.unpack(archive, tmp_path / "rest", PASSPHRASE)
    assert names(tree) | names(tmp_path / "rest") == set(instructors.tracked())
    assert not names(tree) & names(tmp_path / "rest")
    source = "notebooks/assignments/source/a3_sampler.ipynb"
    assert (tmp_path / "rest" / source).read_bytes() == (ROOT / source).read_bytes()


def test_a_short_passphrase_is_refused(tmp_path, capsys):
    (tmp_path / "key").write_text("secret\n")
    words = ["instructors", str(tmp_path / "x"), "--passphrase-file", str(tmp_path / "key")]
    assert instructors.main(words) == 1
    assert "at least 12 characters" in capsys.readouterr().err
