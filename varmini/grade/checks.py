"""From answers to points: compares with references, names known mistakes, writes the sentences."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from .runner import Call

Tree = Any
ASSIGNMENTS = ("a1", "a2", "a3", "a4")
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Check:
    """One line of the mark sheet: some calls of one function, all of which must be right."""

    name: str
    task: int
    """Section of the notebook, with the hints."""
    points: int
    cases: Callable[[np.random.Generator], list[Call]]
    """Makes fresh random calls, all of the same function."""
    reference: Callable[[Call, frozenset[str]], Tree]
    """The expected answer in float64; the set names mistakes to make."""
    mistakes: dict[str, str] = field(default_factory=dict)
    """Known mistakes: their names, and what to tell whoever made one."""
    part: int | None = None
    """Compares this entry of the result only."""
    tolerance: float = 1e-4
    """Largest error, in units of the largest expected number."""


@dataclass
class Result:
    """What one check found."""

    check: str
    function: str
    task: int
    points: int
    earned: int
    message: str
    mistake: str = ""
    """Name of the known mistake, if it is one."""


def load(assignment: str) -> ModuleType:
    """The module of an assignment: TITLE, MINUTES and CHECKS.

    Raises:
        ValueError: when there is no such assignment.
    """
    if assignment not in ASSIGNMENTS:
        raise ValueError(
            f"no assignment {str(assignment)!r}: expected one of {', '.join(ASSIGNMENTS)}"
        )
    return importlib.import_module(f".{assignment}", __package__)


class Exam:
    """The checks of an assignment on one draw of random inputs; may mark many submissions.

    Args:
        assignment: "a1" to "a4".
        seed: of the inputs.
        function: stop after the checks of this function; its forerunners matter for its marks.

    Raises:
        ValueError: when there is no such assignment or function.
    """

    def __init__(self, assignment: str, seed: int, function: str | None = None) -> None:
        self.checks: list[Check] = list(load(assignment).CHECKS)
        # Each check has its own stream: leaving one out does not change another's inputs.
        streams = np.random.default_rng(seed).spawn(len(self.checks))
        cases = [check.cases(rng) for check, rng in zip(self.checks, streams)]
        if function is not None:
            names = [case[0].function for case in cases]
            if function not in names:
                raise ValueError(
                    f"{assignment} asks for no function {function!r}: its functions are "
                    f"{', '.join(dict.fromkeys(names))}"
                )
            cases = cases[: len(names) - names[::-1].index(function)]
        self.cases = cases
        self.calls = [call for case in self.cases for call in case]
        self._references: dict[tuple[int, frozenset[str]], Tree] = {}

    def mark(self, answers: list[dict[str, Any]]) -> list[Result]:
        """One result a check. `answers` are those to `calls`, in order."""
        results: list[Result] = []
        made: dict[str, str] = {}
        remaining = iter(answers)
        for check, case in zip(self.checks, self.cases):
            results.append(self._mark(check, case, [next(remaining) for _ in case], made))
        return results

    def _mark(
        self, check: Check, case: list[Call], answers: list[dict], made: dict[str, str]
    ) -> Result:
        """`made` holds the mistakes found so far and the functions they sit in; may grow."""
        name = case[0].function
        result = Result(check.name, name, check.task, check.points, 0, "")
        trouble = next((t for t in map(_trouble, answers) if t), None)
        if trouble:
            result.message = f"`{name}` {trouble}"
            return result
        values = [_part(answer["value"], check.part) for answer in answers]
        seen = self._compare(check, case, values, NONE)
        if seen is None:
            for call, answer in zip(case, answers):
                if answer.get("changed"):
                    result.mistake = "in-place"
                    result.message = (
                        f"`{name}` changed its argument number {int(answer['changed'][0]) + 1} in "
                        f"place: the caller still needs it, so make a new tensor (x = x - y "
                        f"instead of x -= y)"
                    )
                    return result
            result.earned, result.message = check.points, "right"
            return result
        before = frozenset(made)
        if made and self._compare(check, case, values, before) is None:
            culprits = ", ".join(f"`{f}`" for f in dict.fromkeys(made.values()) if f != name)
            result.earned = check.points
            result.message = f"right, given the mistake in {culprits or f'`{name}`'}: mend that one"
            return result
        for mistake, sentence in check.mistakes.items():
            for wrong in dict.fromkeys([NONE | {mistake}, before | {mistake}]):
                if self._compare(check, case, values, wrong) is None:
                    made[mistake] = name
                    result.mistake, result.message = mistake, f"`{name}`: {sentence} ({seen})"
                    return result
        result.message = f"`{name}` {seen}"
        return result

    def _compare(
        self, check: Check, case: list[Call], values: list[Tree], wrong: frozenset[str]
    ) -> str | None:
        """None when all values are those of the reference; else what was seen."""
        for call, value in zip(case, values):
            key = (id(call), wrong)
            if key not in self._references:
                try:
                    self._references[key] = _part(check.reference(call, wrong), check.part)
                except (ValueError, IndexError):  # this mistake has no result of this shape
                    if not wrong:
                        raise
                    self._references[key] = None
            expected = self._references[key]
            if expected is None:
                return "has no such result"
            seen = difference(value, expected, check.tolerance)
            if seen is not None:
                return seen
        return None


def _part(value: Tree, part: int | None) -> Tree:
    if part is None:
        return value
    return value[part] if isinstance(value, list | tuple) and len(value) > part else None


def _trouble(answer: dict[str, Any]) -> str | None:
    """Why an answer holds no value, as the end of a sentence."""
    status = answer.get("status")
    kind, text = str(answer.get("type", "")), str(answer.get("text", ""))
    where = f" ({answer['where']})" if answer.get("where") else ""
    if status == "ok":
        return None if "value" in answer else "left no answer"
    if status == "raised":
        if kind == "NotImplementedError" and not text:  # torch raises it, too, with a text
            return "is not written yet"
        return f"raised {kind}: {text or 'no message'}{where}"
    return {
        "missing": "is not there: keep the name from the notebook, and see the notes",
        "memory": f"asked for more memory than there is: is a tensor far too large?{where}",
        "slow": "did not return in time: look for a loop that does not end",
        "died": "brought the whole process down (os._exit, or a crash)",
        "unread": "sent back something that is no answer",
        "late": "was not called: the time for the whole submission was used up before",
    }.get(str(status), "left no answer")


# ------------------------------------------------------------------------------- the comparison


def difference(got: Tree, expected: Tree, tolerance: float, name: str = "") -> str | None:
    """None when `got` is `expected`; else what was seen, as the end of a sentence.

    Args:
        got: arrays, numbers, lists and tuples; anything may be in it.
        expected: arrays of bool (compared as such), integers (tokens), floats (any precision, in
            which -inf must stand in the same places), Python numbers, lists and tuples of these.
        tolerance: for floats, in units of the largest finite expected number.
    """
    of = f" in {name}" if name else ""
    if isinstance(expected, list | tuple):
        got = list(got) if isinstance(got, np.ndarray) and got.ndim else got
        if not isinstance(got, list | tuple):
            return f"returned {_kind(got)}{of}, expected {_kind(expected)}"
        if len(got) != len(expected):
            return f"returned {len(got)} entries{of}, expected {len(expected)}"
        for i, (one, other) in enumerate(zip(got, expected)):
            seen = difference(one, other, tolerance, f"{name}[{i}]" if name else f"entry {i}")
            if seen is not None:
                return seen
        return None
    if got is None:
        return f"returned None{of}: is a `return` missing?"
    if isinstance(got, list | tuple) and got and all(isinstance(v, int | float) for v in got):
        got = np.asarray(got)
    if isinstance(got, list | tuple | dict | str):
        return f"returned {_kind(got)}{of}, expected {_kind(expected)}"
    mine, right = np.asarray(got), np.asarray(expected)
    if mine.shape != right.shape:
        return f"returned shape {mine.shape}{of}, expected {right.shape}"
    if right.dtype == bool and mine.dtype != bool:
        return f"returned {mine.dtype}{of}, expected bool"
    if (
        isinstance(expected, np.ndarray)
        and right.dtype.kind in "iu"
        and mine.dtype.kind not in "iu"
    ):
        return f"returned {mine.dtype}{of}, expected integers (torch.int64)"
    if right.dtype.kind in "biu" and mine.dtype.kind == "f":  # a count, added up in floats
        return _first(~(np.abs(mine - right) <= 1e-12 * abs(right)), mine, right, of)
    if right.dtype.kind in "biu":
        return _first(mine != right, mine, right, of)
    mine = mine.astype(np.float64)
    odd = np.isnan(mine) != np.isnan(right)  # a mistake's reference may hold some
    if odd.any():
        return f"returned NaN{of}, at {_place(odd)}"
    if np.isneginf(right).any() and not np.array_equal(np.isneginf(mine), np.isneginf(right)):
        return _kept(mine, right, of)
    finite = np.isfinite(right)
    allowed = tolerance * max(float(np.abs(right[finite]).max(initial=0)), 1e-6)
    error = np.abs(np.where(finite, mine - np.where(finite, right, 0), 0))
    return _first(~(error <= allowed), mine, right, of, error)


def _kind(value: Tree) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"a tensor of shape {value.shape}"
    return "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _place(where: np.ndarray) -> str:
    place = np.argwhere(where)[0].tolist() if where.ndim else []
    return f"[{', '.join(map(str, place))}]"


def _first(
    wrong: np.ndarray, got: np.ndarray, right: np.ndarray, of: str, error: np.ndarray | None = None
) -> str | None:
    """What stands at the worst place, or at the first one."""
    if not wrong.any():
        return None
    worst = wrong if error is None else error == np.where(wrong, error, -1).max()
    place = tuple(np.argwhere(worst)[0]) if wrong.ndim else ()
    shown = (
        f"{got[place]:.4g}, expected {right[place]:.4g}"
        if got.dtype.kind == "f"
        else f"{got[place]}, expected {right[place]}"
    )
    if not wrong.ndim:
        return f"returned {shown}{of}"
    return f"is wrong at {wrong.sum()} of {wrong.size} places{of}; at {_place(worst)} {shown}"


def _kept(got: np.ndarray, right: np.ndarray, of: str) -> str:
    """Which tokens of the first wrong row are ruled out (-inf)."""
    rows = (
        np.isneginf(got).reshape(-1, got.shape[-1]),
        np.isneginf(right).reshape(-1, got.shape[-1]),
    )
    row = int(np.argwhere((rows[0] != rows[1]).any(1))[0, 0])
    mine, expected = ((~part[row]).nonzero()[0].tolist() for part in rows)
    return f"keeps the tokens {mine}{of} in row {row}, expected {expected}"
