"""Values on their way between the two processes: nested lists, with arrays beside them.

JSON for the shape of the tree, safetensors for the numbers: nothing here can execute. Needs NumPy
and safetensors only, because the child reads it too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

Tree = Any
"""None, bool, int, float, str, np.ndarray, or a list, tuple or dict of trees."""

TEXTS, LONGEST = ("status", "type", "text", "where"), 1000
"""Texts of an answer, and how many characters of each are kept."""
LARGEST = 1 << 22
"""Bytes that one packed tree may have."""


def walk(tree: Tree, leaf: Callable[[Any], Any]) -> Tree:
    """The same tree with `leaf` applied to everything that is not a list, tuple or dict."""
    if isinstance(tree, list | tuple):  # a named tuple becomes a tuple
        kind = list if isinstance(tree, list) else tuple
        return kind(walk(branch, leaf) for branch in tree)
    if isinstance(tree, dict):
        return {key: walk(branch, leaf) for key, branch in tree.items()}
    return leaf(tree)


def pack(tree: Tree) -> bytes:
    """A tree as bytes: the length of its JSON (4 bytes), the JSON, then safetensors."""
    arrays: dict[str, np.ndarray] = {}

    def shape(branch: Tree) -> Any:
        if isinstance(branch, np.ndarray):
            arrays[str(len(arrays))] = np.ascontiguousarray(branch)
            return {"array": len(arrays) - 1, "shape": branch.shape}
        if isinstance(branch, list | tuple):
            return {type(branch).__name__: [shape(item) for item in branch]}
        if isinstance(branch, dict):
            return {"dict": {key: shape(item) for key, item in branch.items()}}
        return branch

    text = json.dumps(shape(tree)).encode()
    return len(text).to_bytes(4, "big") + text + save(arrays)


def unpack(data: bytes) -> Tree:
    """`pack` undone.

    Raises:
        ValueError: when the bytes are not what `pack` writes.
    """
    if len(data) > LARGEST:
        raise ValueError(f"{len(data)} bytes, expected at most {LARGEST}")
    end = 4 + int.from_bytes(data[:4], "big")
    try:
        skeleton, arrays = json.loads(data[4:end]), load(data[end:])
        return _rebuild(skeleton, arrays)
    except (
        SafetensorError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        raise ValueError(f"the answer cannot be read ({type(error).__name__})") from None


def _rebuild(node: Any, arrays: dict[str, np.ndarray]) -> Tree:
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[str(node["array"])].reshape(node["shape"])  # safetensors turns () into (1,)
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _rebuild(item, arrays) for key, item in content.items()}
    return {"list": list, "tuple": tuple}[kind](_rebuild(item, arrays) for item in content)


def plain_answer(answer: Any) -> dict[str, Any]:
    """An answer with nothing in it but what `calls.perform` may send.

    The submission shares its process with the code that sends answers, so it can send anything;
    what is no answer gets the status "unread".
    """

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise ValueError(f"numbers of type {value.dtype}")
            return value
        if isinstance(value, int) and abs(value) >= 2**63:
            return float("inf")
        return value

    try:
        found: dict[str, Any] = {key: str(answer.get(key, ""))[:LONGEST] for key in TEXTS}
        changed = answer.get("changed", ())
        found["changed"] = [(int(number), walk(new, leaf)) for number, new in changed]
        return found | ({"value": walk(answer["value"], leaf)} if "value" in answer else {})
    except (AttributeError, ValueError, TypeError, OverflowError, RecursionError):
        return {"status": "unread"}
