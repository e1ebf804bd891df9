"""Submissions that want points without the work: each attempt earns nothing, and harms nobody."""

import functools
import json
import random
import sys

import numpy as np
import pytest
from assignments import proof

from varmini.grade import marking, worker
from varmini.grade.checks import ASSIGNMENTS
from varmini.grade.exam import Exam
from varmini.grade.marking import grade, grade_class
from varmini.grade.runner import Limits
from varmini.grade.submission import read_submission
from varmini.grade.trees import plain_answer, walk


def cheap(call, right, rng) -> dict:
    """Answers to a call that need no work: name -> value."""

    def fill(value):
        return walk(right, lambda leaf: np.full(np.shape(leaf), value, np.asarray(leaf).dtype))

    answers = {"zeros": fill(0), "ones": fill(1), "negative": fill(-1), "nothing": None}
    answers["NaN"] = walk(right, lambda leaf: np.full(np.shape(leaf), np.nan))
    answers["noise"] = walk(right, lambda leaf: rng.standard_normal(np.shape(leaf)))
    for i, arg in enumerate(call.args[:4]):
        answers |= {f"argument {i}": arg, f"argument {i}, twice": [arg, arg]}
    return answers


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_cheap_answers_earn_nothing(assignment):
    exam, rng = Exam(assignment, 5), np.random.default_rng(0)
    tried = [cheap(call, exam.reference().answer(call), rng) for call in exam.calls]
    for name in {name for answers in tried for name in answers}:
        known = {id(call): answers.get(name) for call, answers in zip(exam.calls, tried)}

        def ask(calls, *_, known=known):
            return [{"status": "ok", "value": known.get(id(call))} for call in calls]

        results = exam.mark(ask)
        assert [r.check for r in results if r.earned] == [], name
        assert all(result.message for result in results)


def test_values_of_f_do_not_earn_the_gradient():
    """`return f` has the gradient that straight-through asks for."""
    source = proof.solution("a1").replace("return f + (f_hat - f).detach()", "return f")
    results = {r.check: r for r in proof.mark(Exam("a1", 0), source)}
    assert results["quantize"].earned == results["straight_through"].earned == 0
    assert results["straight_through"].mistake == "values-of-f"
    assert results["loss_gradient"].earned == 2


def strange(rng: random.Random, depth: int = 3):
    """Anything that JSON and safetensors can carry."""
    leaves = [None, True, 0, -1, 10**400, float("nan"), float("inf"), "", "ok", "25", 2**63,
              np.zeros(()), np.full((2, 3), np.inf), np.zeros((0, 3)), np.array([True, False]),
              np.arange(4, dtype=np.uint64), np.float16([1, -np.inf]), -float("inf"),
              functools.reduce(lambda x, _: [x], range(900), 0)]  # fmt: skip
    kind = rng.randrange(5 if depth else 2)
    if kind < 2:
        return rng.choice(leaves)
    items = [strange(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 2:
        return {rng.choice(["status", "value", "changed", "where", "a"]): item for item in items}
    return items if kind == 3 else tuple(items)


def spoiled(right, rng: random.Random):
    """The right shapes, with something odd in the place of some leaves."""
    odd = rng.choice([np.nan, np.inf, -np.inf, 10.0**308])
    return walk(right, lambda leaf: np.where(rng.random() < 0.5, odd, leaf))


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_forged_answers_are_marked_without_an_exception(assignment):
    """The cheat's process may send whatever it likes in the place of answers."""
    exam, rng = Exam(assignment, 0), random.Random(assignment)
    right = [exam.reference().answer(call) for call in exam.calls]
    read = 0
    for _ in range(25):
        answers = []
        for expected in right:
            forged = {"status": rng.choice(["ok", "ok", strange(rng)]), "value": strange(rng)}
            if rng.random() < 0.3:
                forged["value"] = spoiled(expected, rng)
            if rng.random() < 0.3:
                forged["changed"] = strange(rng)
            answers.append(plain_answer(rng.choice([forged, forged, forged, strange(rng)])))
            read += answers[-1]["status"] != "unread"
        send = functools.partial(next, iter(answers), answers[-1])
        marked = exam.mark(lambda calls, *_, send=send: [send() for _ in calls])
        assert all(result.message for result in marked)
    assert read > 200


# ------------------------------------------------------------------------- whole submissions

CHEATS = """
import __main__, builtins, gc, inspect, os, sys
import numpy as np
import torch
import torch.nn.functional as F

print("25 of 25 points"), print("down: 3 of 3 points · right")
os.environ["NBGRADER_EXECUTION"] = "no"


def down(f, size, known):  # the expected answer must be somewhere up the stack
    shape, frame = (*f.shape[:2], *size), sys._getframe(1)
    while frame is not None:
        for value in frame.f_locals.values():
            for item in value.values() if isinstance(value, dict) else [value]:
                if getattr(item, "shape", None) == shape:
                    return torch.as_tensor(item)
        frame = frame.f_back
    return torch.zeros(shape)


def to_tokens(z, levels, span):  # or somewhere in memory, or luck
    shape = (len(z), *z.shape[2:])
    found = [o for o in gc.get_objects() if type(o) is np.ndarray and o.shape == shape]
    return torch.from_numpy(found[0]) if found else torch.randint(9, shape)


def to_codes(tokens, levels, span):  # or the library does it
    from varmini.zoo.tokenizers.fsq import FSQuantizer

    return FSQuantizer(levels)


def decode(tokens, size, levels, spans):  # or NaN, for which no comparison holds
    return torch.full((len(tokens[0]), len(levels), *size), float("nan"))


def encode(f, known, sizes, levels, spans, gain):  # or an object that equals everything
    class Yes(list):
        def __eq__(self, other):
            return True

        __len__ = lambda self: len(sizes)

    return Yes([torch.zeros(len(f), *size, dtype=torch.long) for size in sizes])


def teacher_inputs(tokens, known, sizes, levels, spans):  # or its source can be found
    for folder in [*sys.path, *(os.path.dirname(m.__file__ or "") for m in
                   list(sys.modules.values()) if getattr(m, "__file__", None))]:
        for name in ("varmini/model/quantizer.py", "a1.py", "reference.py"):
            if os.access(os.path.join(folder, name), os.R_OK):
                exec(open(os.path.join(folder, name)).read(), globals())
    return Reference


def quantize(f, *more):  # or the question is made easier
    for frame in inspect.stack():
        for value in list(frame.frame.f_locals.values()):
            if isinstance(value, dict) and "args" in value:
                value["args"] = [np.zeros(1)]
    return f, f.sum() * 0


# or the code that asks is changed, here and in torch
real = __main__.perform


def perform(*args):
    answer = real(*args)
    return answer | {"earned": 25, "points": 25, "message": "right", "changed": []}


__main__.perform = perform
__main__._same = np.array_equal = np.allclose = torch.equal = torch.allclose = lambda *a, **k: True
torch.Tensor.__eq__ = lambda self, other: torch.ones(self.shape, dtype=torch.bool)
builtins.all = builtins.any = lambda *a: True
"""


def test_cheats_earn_nothing(tmp_path):
    """Looking for answers, forging them, patching the grader and torch, printing fake marks."""
    path = tmp_path / "cheat.py"
    path.write_text(CHEATS)
    report = grade("a1", path, seed=0)
    assert report.earned == 0 and report.points == 25
    said = {result.check: result.message for result in report.results}
    assert "uses a package that is not there when graded" in said["to_codes"]
    assert "raised PermissionError" in said["teacher_inputs"]
    assert "returned NaN" in said["decode"] and "returned float32" not in said["encode"]


def test_a_cheat_and_a_killer_cost_the_class_nothing(tmp_path):
    """What one file patches, claims or breaks is gone when the next one is marked."""
    files = {
        "a.py": "import numpy as np\nnp.log = np.exp = lambda x: x\nimport os\nos._exit(0)\n",
        "b.py": "import __main__, os\n__main__.perform = lambda *a: {'status': 'ok', "
                "'value': 10**400, 'changed': {'a': 'b'}}\n",
        "c.py": proof.solution("a4"),
    }  # fmt: skip
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    rows = list(grade_class("a4", tmp_path, seed=0, limits=Limits(total_seconds=60)))
    assert [(row["submission"], row["earned"]) for row in rows] == [
        ("a.py", 0), ("b.py", 0), ("c.py", 25)
    ]  # fmt: skip


def test_deleted_checks_and_edited_points_change_nothing(tmp_path):
    """Marks come from the grader's own checks, whatever is left of the cells that show them."""
    notebook = json.loads(proof.notebook("a4", proof.NOTEBOOKS / "source").read_text())
    cells = [c for c in notebook["cells"] if "check" not in "".join(c["source"])]
    cells = [c for c in cells if "def fit" not in "".join(c["source"])]
    for cell in cells:
        cell["metadata"] = {"nbgrader": {"grade": True, "points": 1000}}
    claim = {"cell_type": "code", "source": 'print("25 of 25 points")', "metadata": {}}
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(notebook | {"cells": [*cells, claim]}))
    report = grade("a4", path, seed=0)
    assert (report.earned, report.points) == (20, 25)
    assert [r.check for r in report.results if not r.earned] == ["fit"]


def test_answers_written_down_beforehand_earn_nothing(tmp_path):
    """The inputs hang on the code as well as on the seed, so a script for seed 0 is of no use."""
    path = tmp_path / "replay.py"
    path.write_text(proof.solution("a4"))
    blocks = read_submission(path)
    for seed in (0, marking.seeds(0, blocks)):  # the notebook's inputs, and those of a right file
        exam = Exam("a4", seed)
        source = ["import numpy as np", "array = np.array", "ANSWERS = {}"]
        for call in exam.calls:
            source.append(f"ANSWERS.setdefault({call.function!r}, []).append("
                          f"{exam.reference().answer(call)!r})")  # fmt: skip
        source += ["inf, nan = np.inf, np.nan", "np.float64 = float"]
        source += [f"def {f}(*args):\n    return ANSWERS[{f!r}].pop(0)" for f in
                   dict.fromkeys(call.function for call in exam.calls)]  # fmt: skip
        path.write_text("\n".join(source))
        report = grade("a4", path, seed=0)
        assert report.notes == [] and report.earned == 0


TAKES = """
def to_tokens(z, levels, span):
    raise ValueError  # so that the grader answers for it


def encode(f, known, sizes, levels, spans, gain):
    import gc, sys

    for name, value in list(globals().items()):  # whatever stands in, and all that it holds
        for cell in getattr(value, "__closure__", None) or ():
            if isinstance(cell.cell_contents, (list, dict)) and cell.cell_contents:
                return cell.cell_contents
    shapes = [(len(f), *size) for size in sizes]
    found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.shape in shapes]
    asked = to_tokens(f[:, :, : sizes[0][0], : sizes[0][1]], levels, spans[0])
    return [asked.expand(len(f), *size[:1], 1).expand(len(f), *size) for size in sizes]
"""


def test_what_the_grader_answers_is_not_there_before_it_is_asked(tmp_path):
    path = tmp_path / "takes.py"
    path.write_text(proof.solution("a1") + TAKES)
    results = {r.check: r for r in grade("a1", path, seed=0).results}
    assert results["to_tokens"].earned == results["encode"].earned == 0
    path.write_text(proof.solution("a1") + TAKES.partition("def encode")[0])
    report = grade("a1", path, seed=0)
    assert [r.check for r in report.results if not r.earned] == ["to_tokens"], report.text()


def test_the_library_is_not_readable_wherever_it_is_installed(tmp_path, monkeypatch):
    """Without a virtual environment, site-packages lies inside a folder that must be readable."""
    library = tmp_path / "lib" / "python3"
    for name in ("os.py", "json/decoder.py", "site-packages/varmini/grade/marking.py",
                 "site-packages/varmini-0.1.dist-info/RECORD", "site-packages/numpy/core.py",
                 "dist-packages/varmini/grade/marking.py"):  # fmt: skip
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).touch()
    site = library / "site-packages"
    (tmp_path / "lib" / "libmkl_core.so.2").touch()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(library), str(site), str(library / "no.zip")])
    readable, _ = worker.readable_paths()

    def allowed(path):
        return any(place in readable for place in [path, *path.parents])

    assert allowed(library / "os.py") and allowed(library / "json" / "decoder.py")
    assert allowed(site / "numpy" / "core.py")
    assert allowed(tmp_path / "lib" / "libmkl_core.so.2")
    assert not allowed(site / "varmini" / "grade.py")
    assert not allowed(site / "varmini-0.1.dist-info" / "RECORD")
    assert not allowed(library / "dist-packages" / "varmini" / "grade.py")
