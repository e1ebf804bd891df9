"""Values on their way between the two processes: nested lists, with arrays beside them.

JSON, in which nothing can execute. Needs NumPy only, because the child reads it too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Tree = Any  # None, bool, int, float, str, np.ndarray, or a list, tuple or dict of trees

TEXTS, LONGEST = ("status", "type", "text", "where"), 1000
"""Texts of an answer, and how many characters of each are kept."""
LARGEST = 1 << 22  # bytes that one packed tree may have


def walk(tree: Tree, leaf: Callable[[Any], Any]) -> Tree:
    """The same tree with `leaf` applied to everything that is not a list, tuple or dict."""
    if isinstance(tree, list | tuple):  # a named tuple becomes a tuple
        kind = list if isinstance(tree, list) else tuple
        return kind(walk(branch, leaf) for branch in tree)
    if isinstance(tree, dict):
        return {key: walk(branch, leaf) for key, branch in tree.items()}
    return leaf(tree)


def form(tree: Tree) -> str:
    """Its numbers and the shapes of its arrays; tuples count as lists."""
    shapes = walk(tree, lambda leaf: leaf.shape if isinstance(leaf, np.ndarray) else leaf)
    return repr(shapes).replace("(", "[").replace(")", "]").replace(",]", "]")


def pack(tree: Tree) -> bytes:
    """A tree as JSON."""

    def plain(branch: Tree) -> Any:
        if isinstance(branch, np.ndarray):
            data = base64.b64encode(branch.tobytes()).decode()
            return {"array": data, "dtype": branch.dtype.str, "shape": branch.shape}
        if isinstance(branch, list | tuple):
            items = [plain(item) for item in branch]
            return items if isinstance(branch, list) else {"tuple": items}
        if isinstance(branch, dict):
            return {key: plain(item) for key, item in branch.items()}
        return branch

    return json.dumps(plain(tree)).encode()


def unpack(data: bytes) -> Tree:
    """`pack` undone.

    Raises:
        ValueError: when the bytes are not what `pack` writes.
    """

    def rebuilt(node: dict[str, Any]) -> Tree:
        if "dtype" not in node:
            return tuple(node["tuple"]) if node.keys() == {"tuple"} else node
        if not re.fullmatch("[<>|][biuf][1248]", node["dtype"]):
            raise ValueError(f"numbers of type {node['dtype']}")
        data = bytearray(base64.b64decode(node["array"]))  # which may be written to
        return np.frombuffer(data, node["dtype"]).reshape(node["shape"])

    try:
        return json.loads(data, object_hook=rebuilt)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the answer cannot be read ({type(error).__name__})") from None


def plain_answer(answer: Any) -> dict[str, Any]:
    """An answer with nothing in it but what `calls.perform` may send.

    The submission shares its process with the code that sends answers, so it can send anything;
    what is no answer gets the status "unread".
    """

    def leaf(value: Any) -> Any:
        return float("inf") if isinstance(value, int) and abs(value) >= 2**63 else value

    try:
        found: dict[str, Any] = {key: str(answer.get(key, ""))[:LONGEST] for key in TEXTS}
        changed = answer.get("changed", ())
        found["changed"] = [(int(number), walk(new, leaf)) for number, new in changed]
        return found | ({"value": walk(answer["value"], leaf)} if "value" in answer else {})
    except (AttributeError, ValueError, TypeError, OverflowError, RecursionError):
        return {"status": "unread"}
