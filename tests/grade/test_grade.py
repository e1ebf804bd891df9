"""Grading: what a submission may be, what it cannot do, and what the teacher gets to see."""

import csv
import json
import random
from collections import namedtuple
from dataclasses import asdict

import numpy as np
import pytest
import torch
from assignments import proof
from assignments.proof import code, notebook_of

from varmini.cli import main as cli
from varmini.cli.grade import harmless
from varmini.grade import trees
from varmini.grade.calls import perform
from varmini.grade.compare import difference
from varmini.grade.exam import Exam
from varmini.grade.marking import Checker, class_files, grade, plain
from varmini.grade.runner import Call

# ------------------------------------------------------------------------------ whole submissions


def test_the_source_notebook_earns_everything():
    report = grade("a2", proof.notebook("a2", proof.NOTEBOOKS / "source"))
    assert (report.earned, report.points) == (25, 25)
    assert report.notes == []
    assert "25 of 25 points" in report.text() and f"seed {report.seed}" in report.text()


def test_a_notebook_without_its_tags_earns_the_same(tmp_path):
    """As after an export to another format: pictures and checks run against stand-ins."""
    source = json.loads(proof.notebook("a3", proof.NOTEBOOKS / "source").read_text())
    path = tmp_path / "mine.ipynb"
    path.write_text(notebook_of(*({**cell, "metadata": {}} for cell in source["cells"])))
    report = grade("a3", path)
    assert (report.earned, report.points) == (25, 25)


ODD = [  # cells as students write them, around and inside the solution
    "import torch\ntorch.set_num_threads(2)\ntorch.set_num_interop_threads(2)",
    "\n\n%matplotlib inline\nF.interpolate?\nwidth = 3\n??F.conv2d",
    "gpus = !nvidia-smi -L\n!pip install einops\nt = %timeit -o -n 1 sum([1])\nprint(t.best)",
    "%time seen = 4\nassert seen == 4 and width == 3",
    "%%time\nassert seen == 4",
    "get_ipython().run_line_magic('time', 'assert seen == 4')\nif len(gpus):\n    %pip list",
    "def down(f, size, known):\n"
    "    return torch.utils.checkpoint.checkpoint(area, f, size, known, use_reentrant=False)\n\n\n"
    "def area(f, size, known):\n"
    "    part = known[:, None].float()\n"
    "    total, share = (F.adaptive_avg_pool2d(x, tuple(size)) for x in (f * part, part))\n"
    "    return total / share.clamp(min=1e-9)",
    "import torch.utils.checkpoint\n"
    "from concurrent.futures import ThreadPoolExecutor\nimport threading\n"
    "one = torch.compile(lambda x, s: (2 * x - 1) * s[:, None, None], backend='eager')\n"
    "def to_codes(tokens, levels, span):\n"
    "    found = []\n"
    "    thread = threading.Thread(target=lambda: found.extend(zip(levels, worth(levels))))\n"
    "    thread.start(), thread.join()\n"
    "    with ThreadPoolExecutor(4) as pool:\n"
    "        parts = list(pool.map(lambda f: tokens // f[1] % f[0] / (f[0] - 1), found))\n"
    "    return one(torch.stack(parts, 1), span)\n\n\n"
    "def worth(levels):\n"
    "    return [math.prod(levels[c + 1 :]) for c in range(len(levels))]",
]


def test_what_notebooks_hold_costs_nothing(tmp_path):
    """Threads, IPython's syntax, torch.compile, checkpointing: full points, and no notes."""
    path = tmp_path / "odd.ipynb"
    path.write_text(notebook_of(code(proof.solution("a1")), *map(code, ODD)))
    report = grade("a1", path, seed=0)
    assert (report.notes, report.earned) == ([], 25), report.text()


def test_the_command_marks_the_students_version_with_zero(capsys):
    path = proof.notebook("a4")
    assert cli.main(["grade", "a4", str(path), "--seed", "5"]) == 0
    out, _ = capsys.readouterr()
    assert "0 of 25 points · seed 5" in out and out.count("is not written yet") == 7


def test_a_class_becomes_one_table(tmp_path, capsys):
    folder = tmp_path / "class"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "ann.py").write_text("def parameters(model):\n    return 7\n")
    (folder / "=1+1.ipynb").write_text("{")
    (folder / ".hidden.py").write_text("")
    out = tmp_path / "marks.csv"
    assert cli.main(["grade", "a4", str(folder), "--out", str(out), "--seed", "3"]) == 0
    with out.open(newline="") as file:
        bad, ann = csv.DictReader(file)
    assert bad["submission"] == "'=1+1.ipynb" and ann["submission"] == "sub/ann.py"
    assert bad["earned"] == ann["earned"] == "0" and bad["points"] == ann["points"] == "25"
    assert "is no notebook" in bad["remarks"] and bad["isolation"] == "not run"
    assert "parameters: `parameters` returned 7, expected" in ann["remarks"]
    assert "fit: `fit` is not there" in ann["remarks"]
    capsys.readouterr()
    assert cli.main(["grade", "a4", str(folder), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args, message",
    [
        (["a9", "x.py"], "no assignment 'a9': expected one of a1, a2, a3, a4"),
        (["a1", "nowhere.py"], "no file nowhere.py"),
        (["a1", "x.txt"], "x.txt is no submission: expected a .ipynb or a .py file"),
        (["a1", "x.py", "--seconds", "0"], "expected more than 0"),
        (["a1", "x.py", "--out", "a.csv"], "--out a.csv is for the folder of a class"),
    ],
)
def test_bad_arguments_are_told_in_one_line(args, message, capsys):
    assert cli.main(["grade", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_an_empty_class(tmp_path):
    with pytest.raises(ValueError, match="holds no .ipynb and no .py file"):
        class_files(tmp_path)


# ------------------------------------------------------------------------------ answers and marks


def test_trees_come_back_and_rubbish_does_not():
    tree = {"a": [np.float32([[1, -np.inf]]), 2.5, None], "b": (True, np.array(3))}
    back = trees.unpack(trees.pack(tree))
    assert back["a"][0].tolist() == [[1, -np.inf]] and back["a"][1:] == [2.5, None]
    assert back["b"][0] is True and back["b"][1].shape == () and int(back["b"][1]) == 3
    data, rng = trees.pack(tree), random.Random(0)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 5])):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            trees.unpack(bytes(damaged[: rng.choice([len(data), rng.randrange(len(data))])]))
        except ValueError:
            pass


@pytest.mark.parametrize(
    "got, expected, message",
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "returned shape (2, 3), expected (3, 2)"),
        (None, np.zeros(2), "returned None: is a `return` missing?"),
        ("text", np.zeros(2), "returned a str, expected a tensor of shape (2,)"),
        (np.float32([1, np.nan]), np.ones(2), "returned NaN, at [1]"),
        (np.ones(2), np.array([1, np.nan]), "returned NaN, at [1]"),
        (-np.inf, 2.0, "returned -inf, expected 2"),
        (np.float32([1, 0]), np.array([1, 2]), "returned float32, expected integers (torch.int64)"),
        (np.array([1, 0]), np.array([True, False]), "returned int64, expected bool"),
        (np.array([1, 3]), np.array([1, 2]), "is wrong at 1 of 2 places; at [1] 3, expected 2"),
        (2.0, 3.0, "returned 2, expected 3"),
        ([1.0], (1.0, 2.0), "returned 1 entries, expected 2"),
        (np.float64([[0, -np.inf, 1]]), np.array([[-np.inf, 0.5, 1]]),
         "keeps the tokens [0, 2] in row 0, expected [1, 2]"),
    ],
)  # fmt: skip
def test_what_is_said_about_a_wrong_answer(got, expected, message):
    assert difference(got, expected, 1e-4) == message


def test_a_difference_below_the_tolerance_is_none():
    right = np.array([100.0, 0.0])
    assert difference(np.float32([100.009, 0.009]), right, 1e-4) is None
    assert difference(np.float32([100.02, 0.0]), right, 1e-4) is not None
    assert difference([np.int32([1])], (np.array([1]),), 1e-4) is None
    count = 3 * 10**17 + 1  # more digits than a float has
    assert difference(float(count), count, 1e-4) is None
    assert difference(float(count) * (1 + 1e-9), count, 1e-4) is not None


def test_text_of_a_submission_is_made_plain():
    assert plain("a\x1b[31mb\nc\u202ed") == "a [31mb c d"
    assert len(plain("x" * 10**6)) == 401
    assert [harmless(x) for x in ("=cmd()", 3, "-1", "a")] == ["'=cmd()", 3, "'-1", "a"]


Pair = namedtuple("Pair", "f_hat loss")


def test_not_written_and_not_supported_differ():
    """Both are NotImplementedErrors; torch's has a text."""
    exam = Exam("a3", 0, "guide")
    of_torch = "raised NotImplementedError: 'Bool'"
    for text, said in (("", "is not written yet"), ("'Bool'", of_torch)):
        answer = {"status": "raised", "type": "NotImplementedError", "text": text}
        (result,) = exam.mark(lambda calls, *_, answer=answer: [answer] * len(calls))
        assert result.message == f"`guide` {said}"


def test_statuses_of_single_calls():
    calls = asdict(Call("f", (np.ones(2, np.float32),)))

    def status(function):
        return perform({"f": function}, calls)

    def in_place(x):
        x += 1
        return x

    assert perform({}, calls) == {"status": "missing"}
    assert status(in_place)["changed"][0][0] == 0
    assert status(lambda x: x.half())["value"].dtype == np.float32
    assert status(lambda x: 1 / 0)["type"] == "ZeroDivisionError"
    assert status(lambda x: 10**30)["value"] == float("inf")
    assert status(lambda x: x.to_sparse())["value"].tolist() == [1, 1]
    assert status(lambda x: x + 1j)["type"] == "TypeError"
    assert type(status(lambda x: Pair(x, x))["value"]) is tuple
    assert status(lambda x, y: x)["status"] == "raised"


# -------------------------------------------------------------------------------- in a notebook


def test_the_checks_in_a_notebook(capsys, monkeypatch):
    namespace = {"__name__": "notebook"}
    exec(proof.solution("a1").replace('mode="area"', 'mode="bilinear"'), namespace)
    check = Checker("a1")
    check(namespace["down"])
    check(namespace["to_codes"])
    out = capsys.readouterr().out
    assert out.startswith("down: 0 of 3 points · `down`: that is bilinear interpolation")
    assert out.count("See the hints of task 1.") == 1 and "to_codes: 2 of 2 points · right" in out
    assert check.done("to_codes") and not check.done("to_codes", "down")
    assert not check.done("encode")
    check(namespace["encode"])
    assert "encode: 5 of 5 points · right, given the mistake in `down`" in capsys.readouterr().out
    check.total()
    assert capsys.readouterr().out == "7 of 25 points\n"
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check(namespace["to_codes"]) == 2
    with pytest.raises(AssertionError, match="down is not right yet"):
        check(namespace["down"])
    part = proof.solution("a1").replace("return f + (f_hat - f).detach()", "return f_hat")
    exec(part, namespace)
    assert check(namespace["quantize"]) == 4  # of 6: nbgrader's partial credit
    with pytest.raises(ValueError, match="a1 asks for no function 'print'"):
        check(print)


def test_gradients_switched_off_by_the_notebook():
    """`torch.set_grad_enabled(False)`, as for pictures, must not cost the gradient's points."""
    torch.set_grad_enabled(False)
    try:
        results = proof.mark(Exam("a1", 0), proof.solution("a1"))
    finally:
        torch.set_grad_enabled(True)
    assert sum(result.earned for result in results) == 25
