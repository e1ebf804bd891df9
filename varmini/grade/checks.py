"""What a line of the mark sheet is: a check, and the result of one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

ASSIGNMENTS = ("a1", "a2", "a3", "a4")


@dataclass(frozen=True)
class Check:
    """One line of the mark sheet: some calls of one function, all of which must be right."""

    name: str
    task: int
    """Section of the notebook, with the hints."""
    points: int
    draw: Callable[[np.random.Generator], list]
    """Makes fresh random inputs: tuples of arguments, or calls."""
    mistakes: dict[str, str] = field(default_factory=dict)
    """Known mistakes: their names, and what to tell whoever made one."""
    function: str = ""
    """What is called, where it is not the name."""
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
    kind: str = ""
    """Else the kind of mistake, if that is to be seen (`kinds.py`)."""


def load(assignment: str) -> ModuleType:
    """The module of an assignment: TITLE, MINUTES, Reference and CHECKS.

    Raises:
        ValueError: when there is no such assignment.
    """
    if assignment not in ASSIGNMENTS:
        raise ValueError(
            f"no assignment {str(assignment)!r}: expected one of {', '.join(ASSIGNMENTS)}"
        )
    return importlib.import_module(f".{assignment}", __package__)
