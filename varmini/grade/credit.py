"""From answers to points: right, right given an earlier mistake, or wrong and of what kind.

A function that calls wrong functions of earlier tasks is not wrong itself. So where an answer is
not the reference's, it is compared once more with what the reference makes of the student's own
earlier functions, which are called in the submission's process.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import Check, Result
from .compare import Tree, trouble
from .kinds import kind
from .reference import NONE, wide
from .runner import Call
from .trees import pack, walk

if TYPE_CHECKING:
    from .exam import Exam

Ask = Callable[..., list[dict[str, Any]]]
"""Calls of functions of a submission, and `respond` where it may ask -> answers; see `Session`."""
Given = dict[str, Callable]
"""Functions of a submission that stand in for the reference's."""
MOST_SUBSETS = 12
LOOSER = 10
"""Factor on the tolerance where the student's own functions, in float32, take part."""


class Marking:
    """Marks one submission, check by check, and knows which functions were not right so far."""

    def __init__(self, exam: Exam, ask: Ask) -> None:
        self.exam, self.ask = exam, ask
        self.suspects: list[str] = []
        self.in_place: list[str] = []
        self.made: dict[str, frozenset[str]] = {}
        """By function, the known mistakes that were found in it."""
        self._answers: dict[tuple[str, bool, bytes], dict[str, Any]] = {}

    def mark(self, check: Check, case: list[Call], answers: list[dict]) -> Result:
        """The result of one check."""
        name = check.function
        result = Result(check.name, name, check.task, check.points, 0, "")
        suspects = [f for f in self.suspects if f != name]
        failed = next((t for t in map(trouble, answers) if t), None)
        values = [answer.get("value") for answer in answers]
        seen = failed or self.exam.compare(check, case, values)
        changed = [answer["changed"][0][0] for answer in answers if answer.get("changed")]
        if seen is None and not changed:
            result.earned, result.message = check.points, "right"
            return result
        if name not in self.suspects:
            self.suspects.append(name)
        contexts = list(self._contexts(check, case, suspects))
        culprits = [] if failed or not seen else self._excused(check, case, values, contexts)
        if seen and not culprits and contexts and self._right_with(check, case, contexts[0]):
            culprits = [other for other in contexts[0] if other in suspects]
        if culprits:
            return self._right_given(result, culprits)
        if failed:
            result.message = f"`{name}` {failed}"
        elif seen is None:
            culprits = [f for f in self.in_place if self._uses(case, f)]
            if culprits:
                return self._right_given(result, culprits)
            self.in_place.append(name)
            result.mistake = "in-place"
            result.message = (
                f"`{name}` changed its argument number {changed[0] + 1} in place: the caller still "
                f"needs it, so make a new tensor (x = x - y instead of x -= y)"
            )
        else:
            result.mistake, sentence = self._name(check, case, values, contexts)
            if not result.mistake:
                result.kind, sentence = self._kind(check, case, values)
            result.message = f"`{name}`: {sentence} ({seen})" if sentence else f"`{name}` {seen}"
        return result

    def _right_given(self, result: Result, culprits: list[str]) -> Result:
        told = ", ".join(f"`{name}`" for name in culprits)
        result.earned = result.points
        result.message = f"right, given the mistake in {told}: mend that one"
        return result

    def _contexts(self, check: Check, case: list[Call], suspects: list[str]) -> Iterator[tuple]:
        """Sets of earlier functions that this one may call, with one that was not right in each.

        First all of them: where a mistake makes ties, only the student's code knows who wins.
        """
        used = [name for name in suspects if self._uses(case, name)]
        names = dict.fromkeys(other.function for other in self.exam.checks)
        before = itertools.takewhile(lambda name: name != check.function, names)
        everything = tuple(name for name in before if self._uses(case, name))
        sizes = range(len(used), 0, -1)
        subsets = itertools.chain(*(itertools.combinations(used, size) for size in sizes))
        sets = dict.fromkeys([everything, *itertools.islice(subsets, MOST_SUBSETS)])
        return iter(sets if used else ())

    def _uses(self, case: list[Call], name: str) -> bool:
        """Whether the reference of these calls needs the function `name`."""

        def notice(*args: Any) -> None:
            raise _Noticed

        try:
            for call in case:
                self.exam.reference(NONE, {name: notice}).answer(call)
        except _Noticed:
            return True
        return False

    def _excused(self, check: Check, case: list[Call], values: list, contexts: list) -> list[str]:
        """The functions whose mistakes are all that is wrong with these values."""
        own = self.made.get(check.function)
        if own and self.exam.compare(check, case, values, own) is None:
            return [check.function]
        enough = 0.5 if case[0].kind == "gradient" else 1
        for names in contexts:
            given = self._students(case, names)
            if self.exam.compare(check, case, values, NONE, given) is None:
                if self._shown(check, case, given) >= enough:
                    return [name for name in names if name in self.suspects]
        made = {name: known for name, known in self.made.items() if name != check.function}
        wrong = NONE.union(*made.values())  # in code that is no function of its own
        if wrong and self.exam.compare(check, case, values, wrong) is None:
            if self._shown(check, case, None, wrong) == 1:
                return list(made)
        return []

    def _shown(self, check: Check, case: list[Call], given: Given | None, wrong=NONE) -> float:
        """The share of the known mistakes that would show, given these functions or mistakes.

        Where one would not, being right may mean nothing: a loop without guidance gives what a
        loop with a `guide` that does nothing gives. Mistakes of the given functions do not count.
        """
        theirs = {m for other in self.exam.checks for m in other.mistakes
                  if other.function in (given or ())}  # fmt: skip
        shows = [
            self.exam.differ(check, case, wrong, wrong | {m}, LOOSER * check.tolerance, given)
            for m in check.mistakes
            if m not in theirs
        ]
        return sum(shows) / max(1, len(shows))

    def _right_with(self, check: Check, case: list[Call], names: Iterable[str]) -> bool:
        """Whether the function is right where these functions give right results.

        They are asked for one by one and computed here, for arguments of the shapes that they must
        have: results that lay in the submission's process could be taken without the work.
        """
        forms: dict[str, set[str]] = {name: set() for name in names}
        for call in case:
            right = self.exam.reference()
            for name in names:
                setattr(right, name, _noting(getattr(right, name), forms[name]))
            right.answer(call)
        if case[0].kind == "gradient":  # a number that is given has no gradient; a token needs none
            forms = {name: seen for name, seen in forms.items() if "float" not in seen}

        def respond(name: str, args: list) -> list | None:
            try:
                if _form(args) in forms[name]:
                    return [self._narrow(getattr(self.exam.reference(), name)(*wide(args)))]
            except Exception:  # the arguments may be anything
                pass
            return None

        answers = self.ask([replace(call, given=list(forms)) for call in case], respond)
        values = [answer.get("value") for answer in answers]
        return not any(map(trouble, answers)) and not self.exam.compare(check, case, values)

    def _students(self, case: list[Call], names: Iterable[str]) -> Given:
        # Float64 for gradients: the reference takes them by small differences.
        wide = case[0].kind == "gradient"
        return {name: self._student(name, wide) for name in names}

    def _student(self, name: str, wide_arguments: bool) -> Callable:
        """A function of the submission, called in its own process."""
        right = getattr(self.exam.reference(), name)
        def function(*args: Any) -> Tree:
            key = name, wide_arguments, pack(args)
            if key not in self._answers:
                inputs = args if wide_arguments else self._narrow(args)
                call = Call(name, inputs, numpy=self.exam.numpy)
                (answer,) = self.ask([call])
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

        def leaf(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            wide = value.dtype == np.float64 and not self.exam.numpy
            return value.astype(np.float32 if wide else value.dtype)

        return walk(tree, leaf)

    def _name(self, check: Check, case: list[Call], values: list, contexts: list) -> tuple:
        """(name, sentence) of a known mistake; two empty strings if it is none."""
        own = self.made.get(check.function, NONE)
        for names in [(), *contexts[:4]]:
            given = self._students(case, names) or None
            for more in dict.fromkeys((NONE, own)):
                for mistake, sentence in check.mistakes.items():
                    wrong = more | {mistake}
                    if self.exam.compare(check, case, values, wrong, given) is None:
                        self.made[check.function] = own | {mistake}
                        return mistake, sentence
        return "", ""

    def _kind(self, check: Check, case: list[Call], values: list) -> tuple[str, str]:
        """(name, sentence) of a kind of mistake; empty strings if nothing is to be said."""
        expected = [self.exam.expected(check, call) for call in case]
        if check.part is not None:
            pairs = all(isinstance(v, list | tuple) and len(v) == 2 for v in values)
            values = [value[check.part] if pairs else value for value in values]
        args, names = [()] * len(case), []
        if case[0].kind == "call":
            args = [call.args for call in case]
            function = getattr(self.exam.reference, check.function)
            names = list(inspect.signature(function).parameters)[1:]
        return kind(args, names, values, expected, check.tolerance) or ("", "")


class _Noticed(Exception):
    """A function was called that is being watched."""


def _noting(function: Callable, forms: set[str]) -> Callable:
    """The function, which writes down what its arguments look like, and "float" of its result."""

    def noting(*args: Any) -> Tree:
        forms.add(_form(args))
        result = function(*args)
        walk(result, lambda leaf: forms.add(np.asarray(leaf).dtype.kind.replace("f", "float")))
        return result

    return noting


def _form(tree: Tree) -> str:
    """Numbers and the shapes of arrays; tuples count as lists."""
    shapes = walk(tree, lambda leaf: leaf.shape if isinstance(leaf, np.ndarray) else leaf)
    return repr(shapes).replace("(", "[").replace(")", "]").replace(",]", "]")


def _alike(got: Tree, expected: Tree) -> bool:
    """Whether the reference can go on with what a student's function returned."""
    if isinstance(expected, list | tuple):
        return (
            isinstance(got, list | tuple)
            and len(got) == len(expected)
            and all(map(_alike, got, expected))
        )
    if not isinstance(got, bool | int | float | np.ndarray):
        return False
    got, expected = np.asarray(got), np.asarray(expected)
    kinds = "f" if expected.dtype.kind == "f" else "biu"  # tokens are indices
    return got.ndim == expected.ndim and got.size <= 4 * expected.size + 16 and (
        got.dtype.kind in kinds
    )  # fmt: skip


def _put(old: Tree, new: Tree) -> None:
    """Writes `new` into `old`, as far as the two are alike."""
    if isinstance(old, np.ndarray) and getattr(new, "shape", None) == old.shape:
        old[...] = new
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for pair in zip(old, new):
            _put(*pair)
