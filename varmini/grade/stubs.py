"""What stands in for that which a submission cannot use: a model, other packages, threads."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import importlib.abc
import importlib.machinery
import threading
import types
from typing import Any

import torch
import torch.nn.functional as F

ABSENT = ("varmini", "matplotlib", "IPython", "ipywidgets")
"""Packages that a notebook may import but a grade must not depend on."""


class ToyModel:
    """Stands in for a trained `VAR` and its tokenizer: random weights, but the true interface.

    Attributes:
        sizes: the grids (h_k, w_k) of the K token maps.
        codebook: (V, C).
        logits: a function of k, the scale from 0, and x, (B, h_k w_k, C) from `next_input` or None
            at scale 0. It returns two tensors (B, h_k w_k, V): logits for the class, and for no
            class. Raises a ValueError when it is not the turn of scale k: a real model appends to
            its cache.
    """

    def __init__(self, sizes, codebook, start, weight, bias, null):
        self.sizes = [tuple(size) for size in sizes]
        self.codebook = codebook
        turns = iter(range(len(sizes)))  # out of reach: nothing here can be set back

        def logits(k, x):
            turn = next(turns, None)
            if k != turn:
                raise ValueError(
                    f"logits of scale {k} asked for, expected scale {turn}: once a scale, in order"
                )
            x = start if x is None else x
            return x @ weight + bias[k], x @ null + bias[k]

        self.logits = logits

    def contribution(self, k, codes):
        """What scale k adds to f_hat: codes (B, C, h_k, w_k) -> (B, C, H, W)."""
        return F.interpolate(codes, size=self.sizes[-1], mode="bicubic") / (1 + 0.3 * k)

    def next_input(self, k, f_hat):
        """The input of scale k, from f_hat (B, C, H, W) of all scales before: (B, h_k w_k, C)."""
        return F.interpolate(f_hat, size=self.sizes[k], mode="area").flatten(2).transpose(1, 2)


class Stub(types.ModuleType):
    """Stands in for an absent package: every attribute, call and item of it is a stub again."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __iter__(self):
        return iter((self, self))  # figure, axes = plt.subplots()

    def __len__(self) -> int:
        return 2

    __getitem__ = __enter__ = __add__ = __radd__ = __sub__ = __rsub__ = __call__
    __mul__ = __rmul__ = __truediv__ = __call__


class StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers every import of an absent package with a stub."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> Stub:
        return Stub(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


class Shell(Stub):
    """What `get_ipython()` returns: magic that times or captures code runs it, the rest is mute."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        super().__init__("shell")
        self.namespace = namespace

    def run_line_magic(self, name: str, line: str, *rest: Any) -> Stub:
        return self.run_cell_magic(name, "", line)

    def run_cell_magic(self, name: str, line: str, body: str) -> Stub:
        if name in ("time", "capture"):
            exec(body, self.namespace)
        return self


class OneByOne(concurrent.futures.Executor):
    """Stands in for a pool of threads, which may not start: runs each task at once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **options: Any) -> concurrent.futures.Future:
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def do_without_threads() -> None:
    """What would start threads, which the kernel refuses, does its work in this one."""
    torch.set_num_threads = torch.set_num_interop_threads = lambda number: None
    threading.Thread.start = threading.Thread.run
    threading.Thread.join = lambda self, timeout=None: None
    for module in (concurrent.futures, concurrent.futures.thread):
        module.ThreadPoolExecutor = OneByOne
