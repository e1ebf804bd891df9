"""An assignment: its checks, and its references, right and with known mistakes in them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np

from .reference import NONE, Reference
from .runner import Call

ASSIGNMENTS = ("a1", "a2", "a3", "a4")


@dataclass
class Result:
    """What one check found."""

    check: str
    function: str
    task: int
    points: int
    earned: int
    message: str
    mistake: str = ""  # name of the known mistake, if it is one
    kind: str = ""  # else the kind of mistake, if that is to be seen (`compare.kind`)


@dataclass(frozen=True)
class Check:
    """One line of the mark sheet: some calls of one function, all of which must be right."""

    name: str
    task: int  # section of the notebook, with the hints
    points: int
    draw: Callable[[np.random.Generator], list]
    """Makes fresh random inputs: tuples of arguments, or calls."""
    function: str = ""  # what is called, where it is not the name
    part: int | None = None  # compares this entry of the result only
    tolerance: float = 1e-4  # largest error, in units of the largest expected number
    known: tuple[str, ...] = ()
    """The sections of known mistakes, where it is not just the one of its name."""
    mistakes: dict[str, str] = field(default_factory=dict)
    """Known mistakes: their names, and what to tell whoever made one."""
    calls: list[Call] = field(default_factory=list)  # what `draw` has drawn, for one `Exam`

    def result(self, earned: int, message: str, **found: str) -> Result:
        """What a submission gets for it."""
        return Result(self.name, self.function, self.task, self.points, earned, message, **found)


class Assignment:
    """The references and checks of `a1.py`, the known mistakes of `a1.toml`.

    A known mistake is a replacement in the source of the right reference.
    """

    def __init__(self, name: str) -> None:
        module = self._module = import_module(f".{name}", __package__)
        table = tomllib.loads(Path(module.__file__).with_suffix(".toml").read_text("utf-8"))
        self.name, self.title = name, module.TITLE
        self.numpy = getattr(module, "NUMPY", False)
        self.code: dict[str, dict[str, str]] = table["code"]
        self.source = Path(module.__file__).read_text("utf-8")
        self._references: dict[frozenset[str], type[Reference]] = {NONE: module.Reference}
        self.checks = []
        for check in module.CHECKS:
            sections = [table["says"].get(section, {}) for section in check.known or (check.name,)]
            mistakes = {name: text for section in sections for name, text in section.items()}
            function = check.function or check.name
            self.checks.append(replace(check, function=function, mistakes=mistakes))
        self.points = sum(check.points for check in self.checks)

    def reference(self, wrong: frozenset[str] = NONE) -> type[Reference]:
        """The references with these mistakes in them.

        Raises:
            LookupError: when two of the mistakes exclude each other.
        """
        if wrong not in self._references:
            source = self.source
            for old, made in self.code.items():
                for mistake in sorted(wrong & made.keys()):
                    if old not in source:
                        raise LookupError(f"{mistake} does not go with the others of {set(wrong)}")
                    source = source.replace(old, made[mistake])
            namespace = {"__name__": self._module.__name__, "__package__": __package__}
            exec(compile(source, self._module.__file__, "exec"), namespace)
            self._references[wrong] = namespace["Reference"]
        return self._references[wrong]


@cache
def load(name: str) -> Assignment:
    """An assignment.

    Raises:
        ValueError: when there is none of this name.
    """
    if name not in ASSIGNMENTS:
        raise ValueError(f"no assignment {str(name)!r}: expected one of {', '.join(ASSIGNMENTS)}")
    return Assignment(name)
