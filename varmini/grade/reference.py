"""Float64 building blocks in NumPy, for the references; nothing here calls torch.

Interpolation is written as matrices, one for the rows and one for the columns: that is what the
words area, bilinear and bicubic mean, and it shares no code with `F.interpolate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy import ndarray as Array


@cache
def matrix(kind: str, old: int, new: int) -> Array:
    """(new, old) weights that turn `old` samples into `new` ones, each row summing to 1.

    Args:
        kind: "area" (mean over the window from floor(i old/new) to ceil((i+1) old/new)),
            "nearest", "bilinear", "bicubic" (Keys' kernel, a = -0.75, edges repeated), or
            "bicubic-corners" (the same with the outermost samples aligned).
    """
    weights = np.zeros((new, old))
    for i in range(new):
        if kind == "area":
            window = range(i * old // new, -(-(i + 1) * old // new))
            weights[i, list(window)] = 1 / len(window)
        elif kind == "nearest":
            weights[i, i * old // new] = 1
        else:
            at = (i + 0.5) * old / new - 0.5
            if kind == "bicubic-corners":
                at = i * (old - 1) / max(1, new - 1)
            if kind == "bilinear":
                at = max(at, 0.0)  # as torch does, which changes nothing for edges repeated
            base = int(np.floor(at))
            for j in range(base - 1, base + 3):
                distance = abs(at - j)
                share = max(0.0, 1 - distance) if kind == "bilinear" else _keys(distance)
                weights[i, min(max(j, 0), old - 1)] += share
    return weights


def _keys(x: float, a: float = -0.75) -> float:
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resize(x: Array, size: Iterable[int], kind: str) -> Array:
    """(B, C, H, W) -> (B, C, h, w)."""
    h, w = size
    rows, columns = matrix(kind, x.shape[-2], h), matrix(kind, x.shape[-1], w)
    return np.einsum("ih,bchw,jw->bcij", rows, x, columns)


def conv3x3(x: Array, weight: Array, bias: Array) -> Array:
    """(B, C, H, W) with weight (C', C, 3, 3) and zeros around -> (B, C', H, W)."""
    h, w = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(x), len(weight), h, w)) + bias[:, None, None]
    for i in range(3):
        for j in range(3):
            out += np.einsum(
                "oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + h, j : j + w]
            )
    return out


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum exp(x); -inf is allowed, but a row of nothing else is NaN."""
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """Standard normal numbers in float32: what the submission gets, and the reference as well."""
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def wide(value):
    """A tree with every float array in float64."""
    if isinstance(value, list | tuple):
        return type(value)(wide(item) for item in value)
    if isinstance(value, dict):
        return {key: wide(item) for key, item in value.items()}
    return value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value
