"""What stands in for that which a submission cannot use: other packages, threads."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import importlib.abc
import importlib.machinery
import threading
import types
from typing import Any

import torch

ABSENT = ("varmini", "matplotlib", "IPython", "ipywidgets")
"""Packages that a notebook may import but a grade must not depend on."""


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
