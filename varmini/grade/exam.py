"""The checks of an assignment on random inputs, and how answers compare with the references."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .checks import Check, Result, load
from .compare import Tree, difference
from .credit import LOOSER, Ask, Given, Marking
from .reference import NONE, Reference
from .runner import Call
from .trees import form, walk


class Exam:
    """The checks of an assignment on one draw of random inputs; may mark many submissions.

    Args:
        assignment: "a1" to "a4".
        seed: of the inputs; one number or several.
        function: stop after the checks of this function; its forerunners matter for its marks.

    Raises:
        ValueError: when there is no such assignment or function.
    """

    def __init__(self, assignment: str, seed: int | list[int], function: str | None = None) -> None:
        self.assignment = load(assignment)
        checks = self.assignment.checks
        # Each check has its own stream: leaving one out does not change another's inputs.
        *streams, self.rng = np.random.default_rng(seed).spawn(len(checks) + 1)
        if function is not None:
            names = [check.function for check in checks]
            if function not in names:
                raise ValueError(
                    f"{assignment} asks for no function {function!r}: its functions are "
                    f"{', '.join(dict.fromkeys(names))}"
                )
            checks = checks[: len(names) - names[::-1].index(function)]
        self._known: dict[tuple[int, frozenset[str]], Tree] = {}
        self._needs: dict[str, dict[str, set[str]]] = {}
        self.checks = [self._draw(check, rng) for check, rng in zip(checks, streams)]
        self.calls = [call for check in self.checks for call in check.calls]

    def _draw(self, check: Check, rng: np.random.Generator) -> Check:
        """The check with inputs on which every known mistake shows, and no two give the same."""
        numpy, sets = self.assignment.numpy, [NONE, *(frozenset({m}) for m in check.mistakes)]
        while True:
            drawn = replace(check, calls=[
                call if isinstance(call, Call) else Call(check.function, call, numpy=numpy)
                for call in check.draw(rng)
            ])  # fmt: skip
            pairs = itertools.combinations(sets, 2)
            if all(self.differ(drawn, *pair, 3 * check.tolerance) for pair in pairs):
                return drawn

    def other(self, check: Check) -> Check:
        """A check with other inputs."""
        return self._draw(check, self.rng)

    def reference(self, wrong: frozenset[str] = NONE, given: Given | None = None) -> Reference:
        """The references with these mistakes, and these functions in the place of their own."""
        return self.assignment.reference(wrong)(given)

    def expected(self, check: Check, call: Call, wrong=NONE, given: Given | None = None) -> Tree:
        """The reference's answer; None when there is none with these mistakes and functions."""
        key = (id(call), wrong)
        found = self._known.get(key) if given is None else None
        if found is None:
            try:
                with np.errstate(all="ignore"):
                    found = call, self.reference(wrong, given).answer(call)
            except Exception:  # a student's function may give anything
                if not wrong and given is None:
                    raise
                found = call, None
            if given is None:
                self._known[key] = found  # with the call, lest another one gets its id
        whole = isinstance(found[1], list | tuple) and check.part is not None
        return found[1][check.part] if whole else found[1]

    def differ(self, check: Check, one, other, tolerance: float, given=None) -> bool:
        """Whether two sets of mistakes give different answers to the calls of a check."""
        for call in check.calls:
            pair = [self.expected(check, call, wrong, given) for wrong in (one, other)]
            if any(value is None for value in pair) or difference(*pair, tolerance):
                return True
        return False

    def compare(self, check: Check, values: list[Tree], wrong=NONE, given=None) -> str | None:
        """None when all values are those of the reference; else what was seen."""
        for call, value in zip(check.calls, values):
            expected = self.expected(check, call, wrong, given)
            if expected is None:
                return "has no such result"
            if check.part is not None:
                if not isinstance(value, list | tuple) or len(value) != 2:
                    return difference(value, (0, 0), 0) or "returned no pair"
                value = value[check.part]
            seen = difference(value, expected, check.tolerance * (LOOSER if given else 1))
            if seen is not None:
                return seen
        return None

    def needs(self, check: Check) -> dict[str, set[str]]:
        """The other functions that the reference of a check calls: what it gives to each.

        The forms of the arguments, and "float" where there are floats in the result.
        """
        if check.name not in self._needs:
            right = self.reference()
            forms = {c.function: set() for c in self.checks if hasattr(right, c.function)}
            forms.pop(check.function, None)
            for name, seen in forms.items():
                setattr(right, name, _noting(getattr(right, name), seen))
            for call in check.calls:
                right.answer(call)
            self._needs[check.name] = {name: seen for name, seen in forms.items() if seen}
        return self._needs[check.name]

    def mark(self, ask: Ask) -> list[Result]:
        """One result a check. `ask` calls the submission, first with all of `calls`."""
        remaining = iter(ask(self.calls))
        marking = Marking(self, ask)
        return [
            marking.mark(check, [next(remaining) for _ in check.calls]) for check in self.checks
        ]


def _noting(function: Callable, seen: set[str]) -> Callable:
    def noting(*args: Tree) -> Tree:
        seen.add(form(args))
        result = function(*args)
        walk(result, lambda leaf: seen.add(np.asarray(leaf).dtype.kind.replace("f", "float")))
        return result

    return noting
