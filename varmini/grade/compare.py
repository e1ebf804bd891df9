"""An answer beside the expected one: what is different, and of what kind the difference is."""

from __future__ import annotations

from typing import Any

import numpy as np

Tree = Any


def difference(got: Tree, expected: Tree, tolerance: float, name: str = "") -> str | None:
    """None when `got` is `expected`; else what was seen, as the end of a sentence.

    Args:
        got: arrays, numbers, lists and tuples; anything may be in it.
        expected: arrays of bool (compared as such), integers (tokens), floats (any precision, in
            which -inf must stand in the same positions), numbers, lists and tuples of these.
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
        return f"returned NaN{of}, at {_position(odd)}"
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


def _position(where: np.ndarray) -> str:
    at = np.argwhere(where)[0].tolist() if where.ndim else []
    return f"[{', '.join(map(str, at))}]"


def _first(
    wrong: np.ndarray, got: np.ndarray, right: np.ndarray, of: str, error: np.ndarray | None = None
) -> str | None:
    """What stands at the worst position, or at the first one."""
    if not wrong.any():
        return None
    worst = wrong if error is None else error == np.where(wrong, error, -1).max()
    at = tuple(np.argwhere(worst)[0]) if wrong.ndim else ()
    shown = (
        f"{got[at]:.4g}, expected {right[at]:.4g}"
        if got.dtype.kind == "f"
        else f"{got[at]}, expected {right[at]}"
    )
    if not wrong.ndim:
        return f"returned {shown}{of}"
    return f"is wrong at {wrong.sum()} of {wrong.size} places{of}; at {_position(worst)} {shown}"


def _kept(got: np.ndarray, right: np.ndarray, of: str) -> str:
    """Which tokens of the first wrong row are ruled out (-inf)."""
    rows = [np.isneginf(part).reshape(-1, part.shape[-1]) for part in (got, right)]
    row = int(np.argwhere((rows[0] != rows[1]).any(1))[0, 0])
    mine, expected = ((~part[row]).nonzero()[0].tolist() for part in rows)
    return f"keeps the tokens {mine}{of} in row {row}, expected {expected}"


def trouble(answer: dict[str, Any]) -> str | None:
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
