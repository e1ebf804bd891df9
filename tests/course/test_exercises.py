"""Exercises whose answer is a number: the cell holds a salted hash of it, and the hash is right."""

import ast
import hashlib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LEVEL = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 4, 9, 25, 64]))
DISTANCE = LEVEL[:, None] - LEVEL[None, :]

ANSWERS = {
    "00": {"answer_1": 85, "answer_2": 23, "answer_3": 1},
    "01": {"tokens_1": 5461, "steps_1": 7, "answer_2": 4, "answer_4": True},
    "02": {"bits_1": 8160, "times_1": 192, "ema(N, m, z, token)": [[2.9505], [3.3255], [2.5]]},
    "03": {"answer_2": 9},
    "05": {"two_maps(level)": (DISTANCE == 0) | (DISTANCE == 1), "row_of_logits": 27,
           "row_of_inputs": 26, "answer_3": 81},
    "11": {"answer_1": [2080, 32768], "answer_2": [1.5, 1.75], "answer_3": [1.4, 4.3027]},
    "14": {"answer_1": [5, 15, 24, 31, 39, 45, 48, 49], "answer_2": [2720, 32896],
           "answer_3": [11808, 524800]},
}  # fmt: skip


def hashed(number: str) -> tuple[str, dict[str, str]]:
    """The source of a notebook's `check`, and {what is checked: digest}."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    (check,) = [source for source in code if source.startswith("def check(")]
    calls = [node for source in code for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]  # fmt: skip
    assert not any(isinstance(n, ast.Constant) and not isinstance(n.value, str)
                   for call in calls for n in [call.args[1]])  # fmt: skip
    return check, {ast.unparse(call.args[0]): call.args[1].value for call in calls
                   if isinstance(call.args[1], ast.Constant)}  # fmt: skip


@pytest.mark.parametrize("number", ANSWERS)
def test_the_right_answer_is_right_and_another_one_is_not(number, capsys):
    source, digests = hashed(number)
    space = {"hashlib": hashlib, "np": np, "torch": torch}
    exec(source, space)
    assert set(digests) == set(ANSWERS[number])
    for name, digest in digests.items():
        answer = torch.as_tensor(ANSWERS[number][name])
        for given, said in ((None, "open"), (answer, "right"), (answer.float() + 1, "not yet")):
            space["check"](given, digest)
            assert capsys.readouterr().out == said + "\n", name
