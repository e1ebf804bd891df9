"""What kind of mistake a wrong answer shows, where no known mistake gives it."""

from __future__ import annotations

import numpy as np

from .compare import Tree, difference

Kind = tuple[str, str]
"""A name, and a sentence: empty where what was seen says it already."""
Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Arrays of the submission beside the expected ones."""


def kind(
    args: list[tuple], names: list[str], got: list[Tree], expected: list[Tree], tolerance: float
) -> Kind | None:
    """The kind of mistake in the answers to some calls of a function, if it is to be seen.

    Args:
        args: of each call.
        names: of the arguments.
        got, expected: the answers.
    """
    right = [difference(*pair, tolerance) is None for pair in zip(got, expected)]
    leaves = [_leaves(*pair) for pair in zip(got, expected)]
    flat = [leaf for found in leaves for leaf in found or ()]
    with np.errstate(all="ignore"):
        if None in leaves:
            return "entries", ""
        return (
            _of_form(flat)
            or _of_numbers([(np.asarray(a), np.asarray(b)) for a, b in flat])
            or _of_inputs(args, names, right)
            or _of_entries(got, expected, tolerance)
        )


def _leaves(got: Tree, expected: Tree) -> list[tuple[Tree, Tree]] | None:
    """The numbers and arrays side by side; None when there are too many or too few."""
    if not isinstance(expected, list | tuple):
        return [(got, expected)]
    if not isinstance(got, list | tuple) or len(got) != len(expected):
        return None
    parts = [_leaves(*pair) for pair in zip(got, expected)]
    return None if None in parts else [leaf for part in parts for leaf in part]


def _of_form(leaves: list[tuple[Tree, Tree]]) -> Kind | None:
    """Types and shapes."""
    if not all(isinstance(a, int | float | np.ndarray) for a, _ in leaves):
        return "type", ""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in leaves]
    if any(a.shape != b.shape for a, b in pairs):
        if all(sorted(a.shape) == sorted(b.shape) for a, b in pairs):
            return "dimensions", "the dimensions are in another order"
        return "shape", "the shape is not right in all calls"
    if any((a.dtype.kind in "iu") != (b.dtype.kind in "iu") and b.ndim for a, b in pairs) or any(
        (a.dtype == bool) != (b.dtype == bool) for a, b in pairs
    ):
        return "dtype", ""
    if any((np.isnan(a) & ~np.isnan(b)).any() for a, b in pairs if a.dtype.kind == "f"):
        return "NaN", ""
    return None


def _of_numbers(pairs: Pairs) -> Kind | None:
    """What becomes of the right numbers, all of them alike."""
    wrong = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
    if all(b.dtype == bool for _, b in pairs):
        return _of_sets(wrong, "it says True", "")
    if any(np.isneginf(b).any() and (np.isneginf(a) != np.isneginf(b)).any() for a, b in pairs):
        kept = [(~np.isneginf(a), ~np.isneginf(b)) for a, b in pairs]
        return _of_sets(kept, "it keeps a token", " in some rows")
    if all(b.dtype.kind == "i" for _, b in pairs) and all(b.ndim for _, b in pairs):
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
    return _of_vectors(got, right) or _of_order(pairs, got, right)


def _of_sets(pairs: Pairs, what: str, where: str) -> Kind | None:
    if all((a != b).all() for a, b in pairs):
        return "inverted", "True and False are swapped everywhere"
    if all((a >= b).all() for a, b in pairs):
        return "too-many", f"{what} where it should not{where}, and never the other way round"
    if all((a <= b).all() for a, b in pairs):
        return "too-few", f"{what} too rarely{where}, and never too often"
    return None


def _near(a: np.ndarray, b: np.ndarray, share: float = 1e-4) -> bool:
    return bool((np.abs(a - b) <= share * max(np.abs(b).max(initial=0), 1e-12)).all())


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
    if (right > 0).all():
        for name, value in (("log", np.log(right)), ("exp", np.exp(right)), ("1 /", 1 / right)):
            if np.isfinite(value).all() and _near(got, value):
                return "function", f"that is {name} of the right numbers"
    if (np.abs(got - right) <= 0.03 * np.abs(right)).all():
        return "nearly", (
            "all numbers are nearly right: a constant is a little off, or the precision too low"
        )
    return None


def _of_order(pairs: Pairs, got: np.ndarray, right: np.ndarray) -> Kind | None:
    for axis in range(1, 5):
        turned = [(a, np.flip(b, -axis)) for a, b in pairs if b.ndim >= axis]
        if turned and all(_near(*pair) for pair in turned):
            return "reversed", f"dimension {-axis} runs the other way"
    if all(np.ndim(b) and _near(np.sort(a, None), np.sort(b, None)) for a, b in pairs):
        return "order", "those are the right numbers, but in other positions"
    batches = [(a, b) for a, b in pairs if b.ndim > 1 and len(b) > 1]
    if batches and all(_near(a, b[[0] * len(b)]) for a, b in batches):
        return "first-of-batch", "every entry of the batch gets the result of the first"
    return None


def _of_inputs(args: list, names: list[str], right: list[bool]) -> Kind | None:
    """Some calls are right: what tells them from the others."""
    if not any(right):
        return None

    told = {}  # by the arguments that may be the reason, their values in each call
    for name, values in zip(names, zip(*args)):
        values = [v if v is None or isinstance(v, int | float) else ... for v in values]
        good, bad = (
            {value for value, ok in zip(values, right) if ok is which} for which in (True, False)
        )
        if not good & bad:
            told[name] = ["given" if value is ... else value for value in values]
    if not told:
        return None
    rows = [", ".join(map(str, row)) for row in zip(*told.values())]
    good, bad = (
        "; ".join(dict.fromkeys(row for row, ok in zip(rows, right) if ok is which))
        for which in (True, False)
    )
    which = ", ".join(f"`{name}`" for name in told)
    return "some-inputs", f"right where {which} is {good}, wrong where it is {bad}"


def _of_entries(got: list, expected: list, tolerance: float) -> Kind | None:
    """Some entries of the result are right, and the same ones in all calls."""
    if not all(isinstance(b, list | tuple) for b in expected):
        return None
    right = [
        {i for i, pair in enumerate(zip(a, b)) if difference(*pair, tolerance) is None}
        for a, b in zip(got, expected)
    ]
    always, count = set.intersection(*right), max(map(len, expected))
    if always and len(always) < count:
        good = ", ".join(map(str, sorted(always)))
        return "some-entries", f"of the entries of the result, {good} is right in all calls"
    if count == 2 and isinstance(expected[0][0], list):
        return _of_entries([a[0] for a in got], [b[0] for b in expected], tolerance)
    return None
