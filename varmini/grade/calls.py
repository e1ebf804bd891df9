"""Calls of a submission's functions, for the process that runs it and for checks in a notebook."""

from __future__ import annotations

import contextlib
import functools
import inspect
import linecache
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from . import trees
from .stubs import Stub
from .toy import ToyModel, hidden_network

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
            functions for which `respond` stands in), and "kind" (`KINDS`).
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
            value = KINDS[call["kind"]](function, call, changed)
        value = trees.walk(value, _plain)
        if len(trees.pack([value, changed])) > trees.LARGEST:
            raise ValueError("the result is far larger than asked for")
    except OutOfTime:
        return {"status": "slow"}
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        memory = "not enough memory" in str(error) or "can't allocate memory" in str(error)
        status = "memory" if memory or isinstance(error, MemoryError) else "raised"
        return {"status": status, **blame(error)}
    return {"status": "ok", "value": value, "changed": changed}


@contextlib.contextmanager
def _given(scope: dict[str, Any], call: dict[str, Any], respond: Respond | None):
    """Puts functions that ask the grader in the place of some of the submission."""

    def ask(name: str, *args: Any, **named: Any) -> Any:
        found = respond(name, trees.walk([*args, *named.values()], _plain))
        if found is None:
            raise LookupError(f"{name} was called with other arguments than expected")
        return _fresh(found, call["numpy"])[0]

    real = {name: scope[name] for name in call["given"] if name in scope}
    scope.update({name: functools.partial(ask, name) for name in call["given"]})
    try:
        yield
    finally:
        for name in call["given"]:
            scope.pop(name)
        scope.update(real)


def _fresh(args: Any, numpy: bool) -> list:
    """Arguments made anew, as tensors or as arrays; a toy model or a network from its weights."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        return value.copy() if numpy else torch.from_numpy(value.copy())

    made = {"toy": lambda toy: ToyModel(_resize, **toy), "net": hidden_network}
    return [
        made[min(arg)](*arg.values()) if isinstance(arg, dict) and arg.keys() < made.keys() else arg
        for arg in trees.walk(list(args), leaf)
    ]


def _resize(x: torch.Tensor, size: tuple[int, int], kind: str) -> torch.Tensor:
    return F.interpolate(x, size=size, mode=kind)


def _watched(function: Any, call: dict[str, Any], changed: list, *state: Any) -> Any:
    """The result of a call; arguments that it changed in place join `changed`."""
    args, kept = _fresh(call["args"], call["numpy"]), _fresh(call["args"], call["numpy"])
    value = function(*args, *state)
    for i, pair in enumerate(zip(args, kept)):
        if isinstance(pair[0], ToyModel):
            pair = [[model.sizes, model.codebook] for model in pair]
        new, old = (None if callable(one) else trees.walk(one, _plain) for one in pair)
        if trees.pack(new) != trees.pack(old):
            changed.append((i, new))
    return value


def _chain(function: Any, call: dict[str, Any], changed: list) -> list:
    """All results of fn(*inputs, *args, state) -> (result, state) for the sequences in "steps".

    The sequences in turn: what is kept anywhere but in the state gets mixed up.
    """
    states, results = [None] * len(call["steps"]), []
    for inputs in zip(*call["steps"]):
        for i, one in enumerate(inputs):
            step = call | {"args": [*one, *call["args"]]}
            result, states[i] = _watched(function, step, changed, states[i])
            results.append(result)
    return results


@torch.enable_grad()  # a notebook may have switched it off for its pictures
def _gradient(function: Any, call: dict[str, Any], changed: list) -> list:
    """Of the sum of result["output"] * "weight", by the arguments at the paths "wrt".

    With "value", that result is the last entry.
    """
    args = _fresh(call["args"], call["numpy"])
    leaves = [functools.reduce(operator.getitem, path, args) for path in call["wrt"]]
    nothing = 0 * sum(leaf.requires_grad_().sum() for leaf in leaves)  # of no effect: zeros
    result = function(*args)[call["output"]]
    total = (result * torch.from_numpy(call["weight"])).sum() + nothing
    found = list(torch.autograd.grad(total, leaves))
    return [*found, result] if call["value"] else found


KINDS = {"call": _watched, "gradient": _gradient, "chain": _chain}


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
