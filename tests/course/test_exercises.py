"""Exercises whose answer is a number: the cell holds a salted hash of it, and the hash is right."""

import ast
import hashlib
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LEVEL = torch.repeat_interleave(torch.arange(5), torch.tensor([1, 4, 9, 25, 64]))
DISTANCE = LEVEL[:, None] - LEVEL[None, :]
ALIKE = np.mean([np.mean(part, (0, 1)) for part in
                 np.split(np.arange(150).reshape(5, 30) % 7, [1, 5, 14], axis=1)])  # fmt: skip

ANSWERS = {
    "00": {"answer_1": 85, "answer_2": 23, "answer_3": 1},
    "01": {"tokens_1": 5461, "steps_1": 7, "answer_2": 4, "answer_4": 0.2,
           "checkerboard(16)": 128 * 128 + 128 * 256},
    "02": {"bits_1": 8160, "times_1": 192, "ema(N, m, z, token)": [[2.9505], [3.3255], [2.5]]},
    "03": {"answer_2": 9},
    "04": {"answer_1": 0.04, "dead_codes(table)": [3], "answer_3": 0.98**100,
           "largest_error(a, torch.zeros_like(a))": 4},
    "05": {"two_maps(level)": (DISTANCE == 0) | (DISTANCE == 1), "row_of_logits": 27,
           "row_of_inputs": 26, "answer_3": 81, "shared_count(4)": (12 * 4 + 6) * 256**2},
    "06": {"answer_1": [np.exp(3.2), 30 * 3.2 / np.log(2)], "maps_alike(each)": ALIKE,
           "answer_3": [16, 16, 29, 16, 16, 30, 512],
           "None if mine is None else round(float(per_map(mine)[-1]), 1)": 4.8},
    "07": {"answer_1": 4675, "answer_2": [[4 / 7, 3 / 7, 0, 0], [4 / 9, 3 / 9, 2 / 9, 0]],
           "answer_3": [2.5, 1]},
    "08": {"answer_1": 10 * np.log10(2), "answer_2": [0, 2], "answer_3": 5,
           "coverage(real_toy, drawn_toy)": 0.25},
    "09": {"answer_1": 2 ** (1 / 0.23), "answer_2": 0.002, "answer_3": -0.020227,
           "best_floor(x, floor, np.linspace(0, 3.2, 321))": 3},
    "10": {"answer_1": 16, "answer_2": 6 / 30, "flat": [0] * 14 + [1] * 16},
    "10 gpu": {"answer_1": 55, "answer_2": 27 / 103, "flat": [0] * 39 + [1] * 64},
    "11": {"answer_1": [1.4706, 2.7674], "answer_2": [0.04, 0.09, 0.09, 0.2],
           "half_width(5)": 1.2417},
    "12": {"answer_1": 11.4157, "answer_2": 2.58350, "answer_3": 491.639, "answer_4": 56},
    "13": {"codes_1": 1000, "bits_1": 14336, "answer_3": -6.2383,
           "moved": [[0, 0], [1, 1], [0, 0], [2, 2], [0, 0], [3, 3]]},
    "14": {"answer_1": [5, 15, 24, 31, 39, 45, 48, 49], "answer_2": [2720, 32896],
           "answer_3": [11808, 524800]},
    "var": {"answer_1": 162, "answer_2": 270},
    "15": {"answer_1": [49200, 98400, 8396800], "answer_2": [1, 1]},
    "16": {"answer_1": 420, "answer_2": [528, 224], "answer_4": [14080, 5120],
           "answer_5": [21, 20]},
}  # fmt: skip


def digest(node: ast.expr, scale: str) -> str | None:
    """The literal digest, or that of {"cpu": digest, "gpu": digest}[SCALE]; otherwise None."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        return ast.literal_eval(node.value)[scale]
    return node.value if isinstance(node, ast.Constant) else None


def hashed(number: str, scale: str) -> tuple[str, dict[str, str]]:
    """The source of a notebook's `check`, and {what is checked: digest}."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    (check,) = [source for source in code if source.startswith("def check(")]
    calls = [node for source in code for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]  # fmt: skip
    found = {ast.unparse(call.args[0]): digest(call.args[1], scale) for call in calls}
    assert all(value is None or isinstance(value, str) for value in found.values())  # no answer
    if check.startswith("def check(answer, digest)"):  # compares hashes alone: each call has one
        assert all(re.fullmatch("[0-9a-f]{8}", value or "") for value in found.values()), found
    return check, {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_right_answer_is_right_and_another_one_is_not(case, capsys):
    number, _, scale = case.partition(" ")
    source, digests = hashed(number, scale or "cpu")
    space = {"hashlib": hashlib, "np": np, "torch": torch}
    exec(source, space)
    assert set(digests) == set(ANSWERS[case])
    for name, value in digests.items():
        answer = torch.as_tensor(ANSWERS[case][name])
        for given, said in ((None, "open"), (answer, "right"), (answer.float() + 1, "not yet")):
            space["check"](given, value)
            assert capsys.readouterr().out == said + "\n", name
