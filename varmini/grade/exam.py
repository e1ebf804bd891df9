"""The checks of an assignment on random inputs, and how answers compare with the references."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from .checks import Check, Result, load
from .compare import Tree, difference
from .credit import LOOSER, Ask, Given, Marking
from .reference import NONE
from .runner import Call


class Exam:
    """The checks of an assignment on one draw of random inputs; may mark many submissions.

    Args:
        assignment: "a1" to "a4".
        seed: of the inputs; one number or several.
        function: stop after the checks of this function; its forerunners matter for its marks.

    Raises:
        ValueError: when there is no such assignment or function.
    """

    def __init__(
        self, assignment: str, seed: int | list[int], function: str | None = None
    ) -> None:
        module = load(assignment)
        self.reference, self.numpy = module.Reference, getattr(module, "NUMPY", False)
        checks: list[Check] = [replace(c, function=c.function or c.name) for c in module.CHECKS]
        # Each check has its own stream: leaving one out does not change another's inputs.
        streams = np.random.default_rng(seed).spawn(len(checks))
        if function is not None:
            names = [check.function for check in checks]
            if function not in names:
                raise ValueError(
                    f"{assignment} asks for no function {function!r}: its functions are "
                    f"{', '.join(dict.fromkeys(names))}"
                )
            checks = checks[: len(names) - names[::-1].index(function)]
        self.checks = checks
        self._known: dict[tuple[int, frozenset[str]], Tree] = {}
        self.cases = [self._draw(check, rng) for check, rng in zip(checks, streams)]
        self.calls = [call for case in self.cases for call in case]

    def _draw(self, check: Check, rng: np.random.Generator) -> list[Call]:
        """Inputs on which every known mistake shows, and no two give the same."""
        while True:
            drawn = check.draw(rng)
            case = [
                c if isinstance(c, Call) else Call(check.function, c, numpy=self.numpy)
                for c in drawn
            ]
            sets = [NONE, *(frozenset({mistake}) for mistake in check.mistakes)]
            if all(
                self.differ(check, case, *pair, 3 * check.tolerance)
                for pair in itertools.combinations(sets, 2)
            ):
                return case

    def differ(self, check: Check, case: list[Call], one, other, tolerance, given=None) -> bool:
        """Whether two sets of mistakes give different answers to these calls."""
        for call in case:
            pair = [self.expected(check, call, wrong, given) for wrong in (one, other)]
            if any(part is None for part in pair) or difference(*pair, tolerance):
                return True
        return False

    def expected(self, check: Check, call: Call, wrong=NONE, given: Given | None = None) -> Tree:
        """The reference's answer; None when there is none with these mistakes and functions."""
        key = (id(call), wrong)
        if given is None and key in self._known:
            return self._part(check, self._known[key][1])
        try:
            with np.errstate(all="ignore"):
                value = self.reference(wrong, given).answer(call)
        except Exception:  # a student's function may give anything
            if not wrong and given is None:
                raise
            value = None
        if given is None:
            self._known[key] = call, value  # the call, lest another one gets its id
        return self._part(check, value)

    def _part(self, check: Check, value: Tree) -> Tree:
        whole = isinstance(value, list | tuple) and check.part is not None
        return value[check.part] if whole else value

    # ------------------------------------------------------------------------------- marking

    def mark(self, ask: Ask) -> list[Result]:
        """One result a check. `ask` calls the submission, first with all of `calls`."""
        remaining = iter(ask(self.calls))
        marking = Marking(self, ask)
        return [
            marking.mark(check, case, [next(remaining) for _ in case])
            for check, case in zip(self.checks, self.cases)
        ]

    def compare(
        self, check: Check, case: list[Call], values: list[Tree], wrong=NONE,
        given: Given | None = None,
    ) -> str | None:  # fmt: skip
        """None when all values are those of the reference; else what was seen."""
        for call, value in zip(case, values):
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
