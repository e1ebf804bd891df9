"""What the references are made of: float64 in NumPy; nothing here calls torch.

Interpolation is written as matrices, one for the rows and one for the columns: that is what the
words area, bilinear and bicubic mean, and it shares no code with `F.interpolate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy import ndarray as Array

from .runner import Call
from .trees import walk

NONE: frozenset[str] = frozenset()


class Reference:
    """The functions of an assignment in float64, as methods of their names.

    Args:
        given: functions that stand in for methods, such as those of a student.

    Attributes:
        margins: how close the decisions were: between two codes, or at the edge of a filter.
    """

    def __init__(self, given: dict[str, Callable] | None = None) -> None:
        self.margins: list[float] = []
        vars(self).update(given or {})

    def answer(self, call: Call) -> Any:
        """The expected answer to a call."""
        args = wide(call.args)
        special = getattr(self, f"{call.function}_{call.kind}", None)
        return special(call, *args) if special else getattr(self, call.function)(*args)


def clear(rng: np.random.Generator, make: Callable, reference: type[Reference], gap: float) -> Call:
    """A call by `make(rng)` in which no decision is closer than `gap`: float32 decides alike."""
    while True:
        right, call = reference(), make(rng)
        right.answer(call)
        if min(right.margins) > gap:
            return call


@cache
def matrix(kind: str, old: int, new: int) -> Array:
    """(new, old) weights that turn `old` samples into `new` ones, each row summing to 1.

    "area" is the mean over the window from floor(i old/new) to ceil((i+1) old/new), "bicubic" has
    Keys' kernel with edges repeated, "bicubic-corners" aligns the outermost samples.
    """
    weights = np.zeros((new, old))
    for i in range(new):
        middle = (i + 0.5) * old / new - 0.5
        if kind == "area":
            window = range(i * old // new, -(-(i + 1) * old // new))
            weights[i, list(window)] = 1 / len(window)
        elif kind.startswith("nearest"):
            weights[i, i * old // new] = 1
        else:
            at = i * (old - 1) / max(1, new - 1) if kind == "bicubic-corners" else middle
            for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
                weights[i, min(max(j, 0), old - 1)] += _kernel(kind, abs(at - j))
    return weights


def _kernel(kind: str, x: float) -> float:
    """Weight at distance x: a triangle, or Keys' cubic."""
    a = -0.75
    if kind.startswith("bilinear"):
        return max(0.0, 1 - x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize(x: Array, size: Iterable[int], kind: str) -> Array:
    """(B, C, H, W) -> (B, C, h, w)."""
    h, w = size
    rows, columns = matrix(kind, x.shape[-2], h), matrix(kind, x.shape[-1], w)
    return np.einsum("ih,bchw,jw->bcij", rows, x, columns)


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum exp(x); -inf is allowed, but a row of nothing else is NaN."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Standard normal numbers in float32: what the submission gets, and the reference as well."""
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def wide(tree: Any) -> Any:
    """A tree with every float array in float64."""

    def leaf(value: Any) -> Any:
        return value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value

    return walk(tree, leaf)
