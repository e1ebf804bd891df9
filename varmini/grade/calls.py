"""Calls of a submission's functions, for the process that runs it and for checks in a notebook."""

from __future__ import annotations

import contextlib
import inspect
import linecache
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import toy, trees
from .stubs import Stub

LARGEST_ANSWER = 100_000
Respond = Callable[[str, list], list | None]


class OutOfTime(BaseException):
    """A statement or a call took too long; not an Exception, so that `except Exception` passes."""


def blame(error: BaseException) -> dict[str, str]:
    """What was raised, and the last line of the submission that it went through."""
    where, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name in linecache.cache and linecache.cache[name][1] is None:
            line = linecache.getline(name, trace.tb_lineno).strip()
            where = f"{name}, line {trace.tb_lineno}: `{line}`"
        trace = trace.tb_next
    text = str(error).strip().partition("\n")[0]
    return {"type": type(error).__name__, "text": text[:300], "where": where[:200]}


def perform(
    namespace: dict[str, Any], call: dict[str, Any], respond: Respond | None = None
) -> dict[str, Any]:
    """Calls one function of the submission.

    Args:
        call: "function", "args" (a tree), "numpy" (arrays stay arrays), "given" (names of
            functions for which `respond` stands in), and "kind":
            "call"      the answer is the result;
            "gradient"  of sum(result[call["output"]] * call["weight"]) with respect to the
                        arguments at the paths call["wrt"]; with call["value"], that result too;
            "chain"     the function is called with each input of each sequence in call["steps"],
                        the sequences in turn, as fn(input, *args, state) -> (result, state) with
                        fresh arguments; the answer is all results.
        respond: the grader's own functions, by name and arguments: [result], or None.

    Returns:
        {"status": "ok", "value": tree, "changed": [(number, new value)] for arguments that were
        changed in place}, or {"status": "missing" | "raised" | "memory" | "slow", ...}.
    """
    function = namespace.get(call["function"])
    if not callable(function):
        return {"status": "missing"}
    changed: list[tuple[int, Any]] = []
    try:
        with _given(getattr(inspect.unwrap(function), "__globals__", namespace), call, respond):
            if call["kind"] == "gradient":
                value = _gradient(function, _fresh(call["args"], call["numpy"]), call)
            elif call["kind"] == "chain":
                value = _chain(function, call, changed)
            else:
                value = _watched(function, call["args"], call["numpy"], changed)
        value = trees.walk(value, _plain)
        if len(trees.pack([value, changed])) > trees.LARGEST:
            raise ValueError("the result is far larger than asked for")
    except OutOfTime:
        return {"status": "slow"}
    except MemoryError as error:
        return {"status": "memory", **blame(error)}
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        memory = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        return {"status": "memory" if memory else "raised", **blame(error)}
    return {"status": "ok", "value": value, "changed": changed}


@contextlib.contextmanager
def _given(scope: dict[str, Any], call: dict[str, Any], respond: Respond | None):
    """Puts functions that ask the grader in the place of some of the submission."""

    def stand_in(name: str) -> Any:
        def function(*args: Any, **named: Any) -> Any:
            found = respond(name, trees.walk([*args, *named.values()], _plain))
            if found is None:
                raise LookupError(f"{name} was called with other arguments than expected")
            return _fresh(found, call["numpy"])[0]

        return function

    real = {name: scope[name] for name in call["given"] if name in scope}
    scope.update({name: stand_in(name) for name in call["given"]})
    try:
        yield
    finally:
        for name in call["given"]:
            scope.pop(name)
        scope.update(real)


def _fresh(args: Any, numpy: bool) -> list:
    """Arguments made anew, as tensors or as arrays; a toy model from its weights."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return value.copy() if numpy else torch.from_numpy(value.copy())

    return [
        toy.ToyModel(**arg["toy"]) if isinstance(arg, dict) and "toy" in arg else arg
        for arg in trees.walk(list(args), leaf)
    ]


def _watched(function: Any, inputs: Any, numpy: bool, changed: list, *state: Any) -> Any:
    """The result of a call; arguments that it changed in place join `changed`."""
    args, kept = _fresh(inputs, numpy), _fresh(inputs, numpy)
    value = function(*args, *state)
    for i, (arg, old) in enumerate(zip(args, kept)):
        if isinstance(arg, toy.ToyModel):
            arg, old = [[part.sizes, part.codebook] for part in (arg, old)]
        if not _same(arg, old):
            changed.append((i, trees.walk(arg, _plain)))
    return value


def _chain(function: Any, call: dict[str, Any], changed: list) -> list:
    """Sequences in turn: what is kept anywhere but in the state gets mixed up."""
    states, results = [None] * len(call["steps"]), []
    for inputs in zip(*call["steps"]):
        for i, one in enumerate(inputs):
            args = [one, *call["args"]]
            result, states[i] = _watched(function, args, call["numpy"], changed, states[i])
            results.append(result)
    return results


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.detach(), b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@torch.enable_grad()  # a notebook may have switched it off for its pictures
def _gradient(function: Any, args: list, call: dict[str, Any]) -> list:
    leaves = []
    for path in call["wrt"]:
        leaf = args
        for step in path:
            leaf = leaf[step]
        leaves.append(leaf.requires_grad_())
    result = function(*args)
    if call["output"] is not None:
        result = result[call["output"]]
    total = (result * torch.from_numpy(call["weight"])).sum()
    grads = [None] * len(leaves)
    if total.requires_grad:
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
    found = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, grads)]
    return [*found, result] if call["value"] else found


def _plain(leaf: Any) -> Any:
    """A leaf of a result as NumPy or a plain number."""
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().to_dense() if leaf.layout != torch.strided else leaf.detach()
        leaf = (leaf.float() if leaf.dtype in (torch.bfloat16, torch.float16) else leaf).numpy()
    if isinstance(leaf, np.generic):
        leaf = leaf.item()
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.kind not in "biuf":
            raise TypeError(f"the result holds numbers of type {leaf.dtype}")
        if leaf.size > LARGEST_ANSWER:
            raise ValueError(f"the result has shape {leaf.shape}, far larger than asked for")
        return np.array(leaf)  # a view of one number may stand for many
    if isinstance(leaf, int) and abs(leaf) >= 2**63:
        return float("inf")
    if leaf is None or isinstance(leaf, int | float):
        return leaf
    if isinstance(leaf, Stub):
        raise ImportError("uses a package that is not there when graded: write it with torch alone")
    raise TypeError(f"the result holds a {type(leaf).__name__}, expected tensors or numbers")
