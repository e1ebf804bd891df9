"""From answers to points: right, right given an earlier mistake, or wrong and of what kind.

A function that calls wrong functions of earlier tasks is not wrong itself. So where an answer is
not the reference's, it is compared once more with what the reference makes of the student's own
earlier functions, which are called in the submission's process.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import Check, Result
from .compare import Tree, kind, trouble
from .reference import NONE, wide
from .runner import Call
from .trees import form, pack, walk

if TYPE_CHECKING:
    from .exam import Exam

Ask = Callable[..., list[dict[str, Any]]]
"""Calls of functions of a submission, and `respond` where it may ask -> answers; see `Session`."""
Given = dict[str, Callable]  # functions of a submission that stand in for the reference's
MOST_SUBSETS = 12
LOOSER = 10  # factor on the tolerance where the student's own functions, in float32, take part


class Marking:
    """Marks one submission, check by check, and knows which functions were not right so far."""

    def __init__(self, exam: Exam, ask: Ask) -> None:
        self.exam, self.ask = exam, ask
        self.suspects: set[str] = set()
        self.in_place: list[str] = []
        self.raised: dict[str, str] = {}
        """Lines of the submission that raised an error, and the first function that met it."""
        self.made: dict[str, frozenset[str]] = {}
        """By function, the known mistakes that were found in it."""
        self._answers: dict[tuple[str, bool, bytes], dict[str, Any]] = {}

    def mark(self, check: Check, answers: list[dict]) -> Result:
        """The result of one check."""
        name = check.function
        failed = next((told for told in map(trouble, answers) if told), None)
        values = [answer.get("value") for answer in answers]
        seen = failed or self.exam.compare(check, values)
        changed = [answer["changed"][0][0] for answer in answers if answer.get("changed")]
        if seen is None and not changed:
            return check.result(check.points, "right")
        used = [f for f in self.exam.needs(check) if f in self.suspects]
        contexts = self._contexts(check, used)
        self.suspects.add(name)
        if seen is None:
            culprits = [f for f in used if f in self.in_place]
        else:
            # First: what `_excused` asks of earlier functions tells how the reference goes on.
            right = bool(used) and self._right_with(check)
            culprits = [] if failed else self._excused(check, values, contexts)
            if not culprits and right:
                culprits = used
        if failed and not culprits:
            culprits = self._raised_before(check, answers)
        if culprits:
            told = ", ".join(f"`{name}`" for name in culprits)
            return check.result(check.points, f"right, given the mistake in {told}: mend that one")
        if failed:
            for answer in answers:
                if answer.get("where"):
                    self.raised.setdefault(answer["where"], name)
            return check.result(0, f"`{name}` {failed}")
        if seen is None:
            self.in_place.append(name)
            message = (
                f"`{name}` changed its argument number {changed[0] + 1} in place: the caller still "
                f"needs it, so make a new tensor (x = x - y instead of x -= y)"
            )
            return check.result(0, message, mistake="in-place")
        mistake, sentence = self._name(check, values, contexts)
        seems, sentence = ("", sentence) if mistake else self._kind(check, values)
        message = f"`{name}`: {sentence} ({seen})" if sentence else f"`{name}` {seen}"
        return check.result(0, message, mistake=mistake, kind=seems)

    def _contexts(self, check: Check, used: list[str]) -> list[tuple[str, ...]]:
        """Sets of earlier functions that this one may call, with one that was not right in each.

        First all of them: where a mistake makes ties, only the student's code knows who wins.
        """
        sizes = range(len(used), 0, -1)
        subsets = itertools.chain(*(itertools.combinations(used, size) for size in sizes))
        sets = [tuple(self.exam.needs(check)), *itertools.islice(subsets, MOST_SUBSETS)]
        return list(dict.fromkeys(sets)) if used else []

    def _excused(self, check: Check, values: list, contexts: list) -> list[str]:
        """The functions whose mistakes are all that is wrong with these values."""
        own = self.made.get(check.function)
        if own and self.exam.compare(check, values, own) is None:
            return [check.function]
        enough = 0.5 if check.calls[0].kind == "gradient" else 1
        for names in contexts:
            given = self._students(check, names)
            if self.exam.compare(check, values, NONE, given) is None:
                if self._shown(check, given) >= enough and self._again(check, names, enough):
                    return [name for name in names if name in self.suspects]
        made = {name: known for name, known in self.made.items() if name != check.function}
        wrong = NONE.union(*made.values())  # in code that is no function of its own
        if wrong and self.exam.compare(check, values, wrong) is None:
            if self._shown(check, None, wrong) == 1:
                return list(made)
        return []

    def _again(self, check: Check, names: Iterable[str], enough: float) -> bool:
        """Whether it is so on other inputs, too, where the references come in a random order.

        An earlier function that keeps count could else be right for the first one, whatever the
        later function returned, and then make each known mistake show.
        """
        other = self.exam.other(check)
        values = [answer.get("value") for answer in self.ask(other.calls)]
        given = self._students(other, names)
        sets = [NONE, *(frozenset({mistake}) for mistake in check.mistakes)]
        runs = list(itertools.product(other.calls, sets))
        for i in self.exam.rng.permutation(len(runs)):
            self.exam.expected(other, *runs[i], given)  # whose answers are kept
        right = self.exam.compare(other, values, NONE, given) is None
        return right and self._shown(other, given) >= enough

    def _shown(self, check: Check, given: Given | None, wrong=NONE) -> float:
        """The share of the known mistakes that would show, given these functions or mistakes.

        Where one would not, being right may mean nothing: a loop without guidance gives what a
        loop with a `guide` that does nothing gives. Mistakes of the given functions do not count.
        """
        theirs = {m for c in self.exam.checks if c.function in (given or ()) for m in c.mistakes}
        shows = [
            self.exam.differ(check, wrong, wrong | {m}, LOOSER * check.tolerance, given)
            for m in check.mistakes.keys() - theirs
        ]
        return sum(shows) / max(1, len(shows))

    def _right_with(self, check: Check) -> bool:
        """Whether the function is right where all that it may call gives right results.

        The results are asked for one by one and computed here, for arguments of the right shapes:
        results that lay in the submission's process could be taken without the work.
        """
        forms = self.exam.needs(check)
        if check.calls[0].kind == "gradient":  # numbers that are given have none; tokens need none
            forms = {name: seen for name, seen in forms.items() if "float" not in seen}

        def respond(name: str, args: list) -> list | None:
            try:
                if form(args) in forms[name]:
                    return [self._narrow(getattr(self.exam.reference(), name)(*wide(args)))]
            except Exception:  # the arguments may be anything
                pass
            return None

        answers = self.ask([replace(call, given=list(forms)) for call in check.calls], respond)
        values = [answer.get("value") for answer in answers]
        return not any(map(trouble, answers)) and not self.exam.compare(check, values)

    def _raised_before(self, check: Check, answers: list[dict]) -> list[str]:
        """The functions that met the very errors in which some of these calls end.

        All other calls must be right, and every known mistake must show in them.
        """
        lines = {answer.get("where") for answer in answers if trouble(answer)}
        kept = [(call, answer) for call, answer in zip(check.calls, answers) if not trouble(answer)]
        if not kept or not lines <= self.raised.keys():
            return []
        rest = replace(check, calls=[call for call, _ in kept])
        wrong = self.exam.compare(rest, [answer["value"] for _, answer in kept])
        if wrong or self._shown(rest, None) < 1:
            return []
        return list(dict.fromkeys(self.raised[line] for line in sorted(lines)))

    def _students(self, check: Check, names: Iterable[str]) -> Given:
        # Float64 for gradients: the reference takes them by small differences.
        return {name: self._student(name, check.calls[0].kind == "gradient") for name in names}

    def _student(self, name: str, wide_arguments: bool) -> Callable:
        """A function of the submission, called in its own process."""
        right = getattr(self.exam.reference(), name)

        def function(*args: Any) -> Tree:
            key = name, wide_arguments, pack(args)
            if key not in self._answers:
                inputs = args if wide_arguments else self._narrow(args)
                (answer,) = self.ask([Call(name, inputs, numpy=self.exam.assignment.numpy)])
                fits = not trouble(answer) and _alike(answer["value"], right(*wide(args)))
                self._answers[key] = answer if fits else {}
            answer = self._answers[key]
            if not answer:
                raise ValueError("no answer")
            for number, new in answer.get("changed", ()):  # in place, there as here
                _put(args[number], new)
            return wide(answer["value"])

        return function

    def _narrow(self, tree: Tree) -> Tree:
        """A copy, as a submission gets it."""
        kinds = {} if self.exam.assignment.numpy else {np.dtype(float): np.float32}

        def leaf(value: Any) -> Any:
            arrays = isinstance(value, np.ndarray)
            return value.astype(kinds.get(value.dtype, value.dtype)) if arrays else value

        return walk(tree, leaf)

    def _name(self, check: Check, values: list, contexts: list) -> tuple:
        """(name, sentence) of a known mistake; two empty strings if it is none."""
        own = self.made.get(check.function, NONE)
        for names in [(), *contexts[:4]]:
            given = self._students(check, names) or None
            for more in dict.fromkeys((NONE, own)):
                for mistake, sentence in check.mistakes.items():
                    if self.exam.compare(check, values, more | {mistake}, given) is None:
                        self.made[check.function] = own | {mistake}
                        return mistake, sentence
        return "", ""

    def _kind(self, check: Check, values: list) -> tuple[str, str]:
        """(name, sentence) of a kind of mistake; empty strings if nothing is to be said."""
        expected = [self.exam.expected(check, call) for call in check.calls]
        if check.part is not None:
            pairs = all(isinstance(v, list | tuple) and len(v) == 2 for v in values)
            values = [value[check.part] if pairs else value for value in values]
        function = getattr(self.exam.reference(), check.function, lambda: None)
        names = list(inspect.signature(function).parameters)
        args = [call.args for call in check.calls]
        return kind(args, names, values, expected, check.tolerance) or ("", "")


def _alike(got: Tree, expected: Tree) -> bool:
    """Whether the reference can go on with what a student's function returned."""
    if isinstance(expected, list | tuple):
        many = isinstance(got, list | tuple) and len(got) == len(expected)
        return many and all(map(_alike, got, expected))
    if not isinstance(got, bool | int | float | np.ndarray):
        return False
    got, expected = np.asarray(got), np.asarray(expected)
    kinds = "f" if expected.dtype.kind == "f" else "biu"  # tokens are indices
    few = got.ndim == expected.ndim and got.size <= 4 * expected.size + 16
    return few and got.dtype.kind in kinds


def _put(old: Tree, new: Tree) -> None:
    """Writes `new` into `old`, as far as the two are alike."""
    if isinstance(old, np.ndarray) and getattr(new, "shape", None) == old.shape:
        old[...] = new
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for pair in zip(old, new):
            _put(*pair)
