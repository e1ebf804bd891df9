"""The child process: runs a submission, then calls its functions; knows no reference.

Started by `runner.py` as a script, without varmini on the path. It reads a packed job from stdin,
locks itself in, runs the submission statement by statement, and then answers calls for as long as
there are some, through the pipe that was stdout.
"""

from __future__ import annotations

import ast
import codeop
import functools
import linecache
import os
import re
import signal
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script: varmini is not on the path, and its __init__ is not run
    sys.path += sys.argv[1:]
    __package__ = "grader"
    sys.modules[__package__] = types.ModuleType(__package__)
    sys.modules[__package__].__path__ = [str(Path(__file__).parent)]

import torch

from . import lockdown, trees
from .calls import OutOfTime, blame, perform
from .stubs import ABSENT, Shell, StubFinder, do_without_threads

MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)


def statements(blocks: list[tuple[str, str]]) -> tuple[list[tuple[str, ast.stmt]], list[str]]:
    """The top-level statements of all blocks, and a note for every block that is no Python.

    Args:
        blocks: (label, source), such as ("cell 3", "x = 1").
    """
    found, notes = [], []
    for label, source in blocks:
        tree, first = None, None
        for read in (str, python_of):
            try:
                tree = ast.parse(read(source))
                break
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                first = first or error
        if tree is None:
            line = getattr(first, "lineno", None)
            where = f"{label}, line {line}" if line else label
            notes.append(f"{where}: {type(first).__name__}: {getattr(first, 'msg', first)}")
            continue
        linecache.cache[label] = (len(source), None, source.splitlines(True), label)
        found += [(label, node) for node in tree.body]
    return found, notes


def python_of(source: str) -> str:
    """A cell with IPython's syntax (%magic, !shell, help?) as Python, on the same lines."""
    try:
        from IPython.core.inputtransformer2 import TransformerManager

        blank = re.match(r"(\s*\n)*", source)[0].count("\n")  # which IPython strips
        return "\n" * blank + TransformerManager().transform_cell(source)
    except Exception:  # no IPython, or a cell that it cannot read either
        return MAGIC.sub("", source)


class Pipe:
    """What was stdin and stdout, which from now on lead nowhere."""

    def __init__(self) -> None:
        self._in, self._out = Connection(os.dup(0), writable=False), Connection(os.dup(1))
        self.nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(self.nowhere, 0), os.dup2(self.nowhere, 1)

    def receive(self) -> dict[str, Any]:
        return trees.unpack(self._in.recv_bytes())

    def send(self, **message: Any) -> None:
        self._out.send_bytes(trees.pack(message))

    def respond(self, name: str, args: list) -> list | None:
        self.send(ask=[name, args])
        return self.receive()["result"]


def ring(number: int, frame: Any) -> None:
    """The alarm of a statement or a call."""
    raise OutOfTime("took too long")


def lock_in(pipe: Pipe, job: dict[str, Any]) -> None:
    """Loads what torch loads later, then gives up all rights; there is no way back."""
    signal.signal(signal.SIGPROF, ring)
    torch.set_num_threads(1)
    warm = torch.ones(2, requires_grad=True)
    torch.autograd.grad(warm.softmax(0).sum(), warm)  # loads what a first backward pass loads
    do_without_threads()
    lockdown.limit(job["memory_mb"], job["cpu_seconds"])
    os.dup2(pipe.nowhere, 2)
    pipe.send(isolation=lockdown.apply(*readable_paths(), job["kernel"]))


def main() -> None:
    """Job on stdin, messages on what was stdout; everything else goes nowhere."""
    sys.modules[__package__].__path__ = []
    pipe = Pipe()
    job = pipe.receive()
    lock_in(pipe, job)

    def in_time(function: Any, *args: Any) -> Any:
        signal.setitimer(signal.ITIMER_PROF, job["call_seconds"])
        try:
            return function(*args)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    module = sys.modules["submission"] = types.ModuleType("submission")
    found, notes = statements(job["blocks"])
    for note in notes:
        pipe.send(note=note)
    for name in [name for name in sys.modules if name.partition(".")[0] in ABSENT]:
        del sys.modules[name]
    sys.meta_path.insert(0, StubFinder())
    module.get_ipython = functools.partial(Shell, module.__dict__)
    compiled = codeop.Compile()  # which remembers imports from __future__
    for i, (label, node) in enumerate(found):
        if i in job["skip"]:
            continue
        where = f"{label}, line {node.lineno}"
        pipe.send(start=i, where=where)
        try:
            in_time(exec, compiled(ast.Module([node], []), label, "exec"), module.__dict__)
        except BaseException as error:
            told = blame(error)
            pipe.send(note=f"{told['where'] or where}: {told['type']}: {told['text']}")
    pipe.send(loaded=True)
    while True:
        for call in pipe.receive()["calls"]:
            try:
                answer = in_time(perform, module.__dict__, call, pipe.respond)
            except OutOfTime:  # the alarm rang on the way out
                answer = {"status": "slow"}
            pipe.send(answer=answer)


def readable_paths() -> tuple[list[Path], list[Path]]:
    """(what may be read, what may be listed): Python's and the system's libraries, not varmini."""
    folders = [Path(entry) for entry in sys.path if Path(entry).is_dir()]
    # Entry by entry: without a virtual environment, site-packages lies inside Python's own folder,
    # and what may be read may be read with all below it.
    hidden = re.compile(r"varmini|(site|dist)-packages$")
    readable = [path for folder in folders for path in folder.iterdir()]
    readable = [path for path in readable if not hidden.match(path.name)]
    libraries = [Path("/lib64"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu*")]
    libraries += Path(sys.base_prefix, "lib").glob("*.so*")  # conda's, loaded when first used
    devices = [Path("/dev", name) for name in ("null", "zero", "urandom")]
    return readable + libraries + devices + [Path("/etc/ld.so.cache")], folders


if __name__ == "__main__":
    main()
