"""An answer beside the expected one: what is different, and what kind of mistake it shows."""

from __future__ import annotations

from typing import Any

import numpy as np

Tree = Any
NUMBERS = int | float | np.ndarray
Kind = tuple[str, str]  # a name, and a sentence
Pairs = list[tuple[np.ndarray, np.ndarray]]  # arrays of the submission beside the expected ones


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
            return f"returned {_described(got)}{of}, expected {_described(expected)}"
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
        return f"returned {_described(got)}{of}, expected {_described(expected)}"
    mine, right = _array(got), _array(expected)
    if mine.shape != right.shape:
        return f"returned shape {mine.shape}{of}, expected {right.shape}"
    if right.dtype == bool and mine.dtype != bool:
        return f"returned {mine.dtype}{of}, expected bool"
    tokens = isinstance(expected, np.ndarray) and right.dtype.kind in "iu"
    if tokens and mine.dtype.kind not in "iu":
        return f"returned {mine.dtype}{of}, expected integers (torch.int64)"
    if right.dtype.kind in "biu":
        if mine.dtype.kind == "f":  # a count, added up in floats
            return _first(~(np.abs(mine - right) <= 1e-12 * abs(right)), mine, right, of)
        return _first(mine != right, mine, right, of)
    mine = mine.astype(np.float64)
    odd = np.isnan(mine) != np.isnan(right)  # a mistake's reference may hold some
    if odd.any():
        return f"returned NaN{of}, at {np.argwhere(odd)[0].tolist()}"
    if np.isneginf(right).any() and not np.array_equal(np.isneginf(mine), np.isneginf(right)):
        return _kept(mine, right, of)
    finite = np.isfinite(right)
    allowed = tolerance * max(float(np.abs(right[finite]).max(initial=0)), 1e-6)
    error = np.abs(np.where(finite, mine - np.where(finite, right, 0), 0))
    return _first(~(error <= allowed), mine, right, of, error)


def _array(value: Tree) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype == object else array  # a count past 64 bits


def _described(value: Tree) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"a tensor of shape {value.shape}"
    return "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"


def _first(
    wrong: np.ndarray, got: np.ndarray, right: np.ndarray, of: str, error: np.ndarray | None = None
) -> str | None:
    """What stands at the worst position, or at the first one."""
    if not wrong.any():
        return None
    worst = wrong if error is None else error == np.where(wrong, error, -1).max()
    at = tuple(np.argwhere(worst)[0].tolist())
    digits = ".4g" if got.dtype.kind == "f" else ""
    shown = f"{got[at]:{digits}}, expected {right[at]:{digits}}"
    if not wrong.ndim:
        return f"returned {shown}{of}"
    return f"is wrong at {wrong.sum()} of {wrong.size} places{of}; at {list(at)} {shown}"


def _kept(got: np.ndarray, right: np.ndarray, of: str) -> str:
    """Which tokens of the first wrong row are ruled out (-inf)."""
    rows = [np.isneginf(part).reshape(-1, part.shape[-1]) for part in (got, right)]
    row = int(np.argwhere((rows[0] != rows[1]).any(1))[0, 0])
    mine, expected = ((~part[row]).nonzero()[0].tolist() for part in rows)
    return f"keeps the tokens {mine}{of} in row {row}, expected {expected}"


ENDS = {
    "missing": "is not there: keep the name from the notebook, and see the notes",
    "memory": "asked for more memory than there is: is a tensor far too large?",
    "slow": "did not return in time: look for a loop that does not end",
    "died": "brought the whole process down (os._exit, or a crash)",
    "unread": "sent back something that is no answer",
    "late": "was not called: the time for the whole submission was used up before",
}


def trouble(answer: dict[str, Any]) -> str | None:
    """Why an answer holds no value, as the end of a sentence."""
    status = str(answer.get("status"))
    kind, text = str(answer.get("type", "")), str(answer.get("text", ""))
    where = f" ({answer['where']})" if answer.get("where") else ""
    if status == "ok" and "value" in answer:
        return None
    if status == "raised":
        if kind == "NotImplementedError" and not text:  # torch raises it, too, with a text
            return "is not written yet"
        return f"raised {kind}: {text or 'no message'}{where}"
    return ENDS.get(status, "left no answer") + where * (status == "memory")


def kind(
    args: list[tuple], names: list[str], got: list[Tree], expected: list[Tree], tolerance: float
) -> Kind | None:
    """The kind of mistake in the answers to calls with `args`, if it is to be seen."""
    leaves = [_leaves(*pair) for pair in zip(got, expected)]
    if None in leaves or not all(isinstance(a, NUMBERS) for found in leaves for a, _ in found):
        return None
    pairs = [(np.asarray(a), np.asarray(b)) for found in leaves for a, b in found]
    if any(a.shape != b.shape for a, b in pairs):
        if all(sorted(a.shape) == sorted(b.shape) for a, b in pairs):
            return "dimensions", "the dimensions are in another order"
        return "shape", "the shape is not right in all calls"
    if any(_of_other_type(*pair) for pair in pairs):  # what was seen says it
        return None
    right = [difference(*pair, tolerance) is None for pair in zip(got, expected)]
    with np.errstate(all="ignore"):
        return _of_numbers(pairs) or _of_inputs(args, names, right)


def _leaves(got: Tree, expected: Tree) -> list[tuple[Tree, Tree]] | None:
    """The numbers and arrays side by side; None when there are too many or too few."""
    if not isinstance(expected, list | tuple):
        return [(got, expected)]
    if not isinstance(got, list | tuple) or len(got) != len(expected):
        return None
    parts = [_leaves(*pair) for pair in zip(got, expected)]
    return None if None in parts else [leaf for part in parts for leaf in part]


def _of_other_type(a: np.ndarray, b: np.ndarray) -> bool:
    integers = (a.dtype.kind in "iu") != (b.dtype.kind in "iu") and b.ndim
    odd = a.dtype.kind == "f" and (np.isnan(a) & ~np.isnan(b)).any()
    return bool((a.dtype == bool) != (b.dtype == bool) or integers or odd)


def _of_numbers(pairs: Pairs) -> Kind | None:
    """What becomes of the right numbers, all of them alike."""
    wrong = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
    if all(b.dtype == bool for _, b in pairs):
        return _of_sets(wrong, "it says True", "")
    if any(np.isneginf(b).any() and (np.isneginf(a) != np.isneginf(b)).any() for a, b in pairs):
        kept = [(~np.isneginf(a), ~np.isneginf(b)) for a, b in pairs]
        return _of_sets(kept, "it keeps a token", " in some rows")
    if all(b.dtype.kind == "i" and b.ndim for _, b in pairs):
        bad = [a[a != b] for a, b in wrong]
        if all((p == p[0]).all() and p[0] > b.max() for p, (_, b) in zip(bad, wrong)):
            return "past-the-end", (
                f"some tokens are {bad[0][0]}, past the last code that may be drawn: rounding "
                f"leaves the last cumulative probability a little below 1, and the random number "
                f"may lie above it"
            )
    got, right = (
        np.concatenate([part[np.isfinite(part)].astype(float) for part in side] or [[]])
        for side in zip(*pairs)
    )
    if got.shape != right.shape or not np.abs(right).max(initial=0):
        return None
    return _of_vectors(got, right) or _of_order(pairs)


def _of_sets(pairs: Pairs, what: str, where: str) -> Kind | None:
    if all((a != b).all() for a, b in pairs):
        return "inverted", "True and False are swapped everywhere"
    if all((a >= b).all() for a, b in pairs):
        return "too-many", f"{what} where it should not{where}, and never the other way round"
    if all((a <= b).all() for a, b in pairs):
        return "too-few", f"{what} too rarely{where}, and never too often"
    return None


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.abs(a - b) <= 1e-4 * max(np.abs(b).max(initial=0), 1e-12)).all())


def _of_vectors(got: np.ndarray, right: np.ndarray) -> Kind | None:
    factor, offset = got @ right / (right @ right), (got - right).mean()
    if _near(got, -right):
        return "sign", "the sign is reversed"
    if _near(np.abs(got), np.abs(right)) and (np.sign(got) != np.sign(right)).any():
        return "sign", "some signs are reversed"
    if abs(factor) > 1e-3 and abs(factor - 1) > 1e-3 and _near(got, factor * right):
        return "factor", f"every number is {factor:.3g} times the expected one"
    if len(right) > 2 and abs(offset) and _near(got, right + offset):
        return "offset", f"every number is off by {offset:+.3g}"
    for name, value in (("log", np.log(right)), ("exp", np.exp(right)), ("1 /", 1 / right)):
        if (right > 0).all() and np.isfinite(value).all() and _near(got, value):
            return "function", f"that is {name} of the right numbers"
    if (np.abs(got - right) <= 0.03 * np.abs(right)).all():
        return "nearly", (
            "all numbers are nearly right: a constant is a little off, or the precision too low"
        )
    return None


def _of_order(pairs: Pairs) -> Kind | None:
    if all(b.ndim and _near(np.sort(a, None), np.sort(b, None)) for a, b in pairs):
        return "order", "those are the right numbers, but in other positions"
    batches = [(a, b) for a, b in pairs if b.ndim > 1 and len(b) > 1]
    if batches and all(_near(a, b[[0] * len(b)]) for a, b in batches):
        return "first-of-batch", "every entry of the batch gets the result of the first"
    return None


def _of_inputs(args: list, names: list[str], right: list[bool]) -> Kind | None:
    """Some calls are right: what tells them from the others."""

    def parts(values) -> tuple[dict, dict]:
        """The different values in calls that are right, and in calls that are wrong."""
        pairs = list(zip(values, right))
        good, bad = [v for v, ok in pairs if ok], [v for v, ok in pairs if not ok]
        return dict.fromkeys(good), dict.fromkeys(bad)

    told = {}  # by the arguments that may be the reason, their values in each call
    for name, values in zip(names, zip(*args)):
        values = [v if v is None or isinstance(v, int | float) else "given" for v in values]
        if not set.intersection(*map(set, parts(values))):
            told[name] = values
    if not told or not any(right):
        return None
    good, bad = map("; ".join, parts([", ".join(map(str, row)) for row in zip(*told.values())]))
    which = ", ".join(f"`{name}`" for name in told)
    return "some-inputs", f"right where {which} is {good}, wrong where it is {bad}"
