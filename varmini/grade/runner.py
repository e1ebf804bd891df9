"""The parent's side: starts the child, feeds it, watches the clock, and starts it again."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .trees import LARGEST, pack, plain_answer, unpack

WORKER = Path(__file__).with_name("worker.py")
STARTS = 8
"""A submission that brought down so many processes is not started again."""
MOST_NOTES, LONGEST = 50, 1000
"""Notes kept of a submission, and characters of each."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    call_seconds: float = 5.0
    """Processor seconds for one statement or one call; by the clock, three times as many."""
    total_seconds: float = 120.0
    """By the clock, for everything, restarts included."""
    start_seconds: float = 120.0
    """For a process to load torch; not the submission's to spend."""
    memory_mb: int = 2048
    """MiB of memory on top of what torch takes."""


@dataclass
class Call:
    """One call of a function of the submission; see `calls.perform`."""

    function: str
    args: tuple
    kind: str = "call"
    numpy: bool = False
    output: int | None = None
    weight: Any = None
    wrt: list = field(default_factory=list)
    value: bool = False
    steps: list = field(default_factory=list)
    given: list = field(default_factory=list)


class _Ended(Exception):
    """The child is gone, or has to go; the argument is a status."""


class Session:
    """A submission in a locked-in process of its own, whose functions can be called.

    A process that hangs or dies is replaced, without the statement or the function that was
    running: the other functions keep their chance. To be used in a `with` statement.

    Args:
        blocks: from `read_submission`.
        kernel: False does without the kernel's fences (`lockdown.apply`).

    Attributes:
        notes: statements of the submission that failed.
        isolation: which fences were up.
    """

    def __init__(
        self, blocks: Sequence[tuple[str, str]], limits: Limits = Limits(), kernel: bool = True
    ) -> None:
        self.notes: list[str] = []
        self.isolation = ""
        self._limits, self._left, self._starts = limits, limits.total_seconds, STARTS
        self._job = {
            "blocks": [tuple(block) for block in blocks],
            "skip": [],
            "call_seconds": limits.call_seconds,
            "cpu_seconds": int(limits.start_seconds + limits.total_seconds) + 1,
            "memory_mb": limits.memory_mb,
            "kernel": kernel,
        }
        self._dropped: list[str] = []
        self._ended: dict[str, str] = {}
        """Functions that ended a process, and how: each further try would cost another one."""
        self._child: _Child | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def call(
        self, calls: Sequence[Call], respond: Callable[[str, Any], list | None] | None = None
    ) -> list[dict[str, Any]]:
        """One answer a call, as `calls.perform` says.

        Further values of "status": "slow" (too long), "died" (the process ended), "unread" (makes
        no sense), "late" (no time left).

        Args:
            respond: the grader's own functions, for calls that have some `given`.

        Raises:
            OSError: when the process does not start, which is not the submission's fault.
        """
        answers: list[dict[str, Any] | None] = [None] * len(calls)
        todo = list(range(len(calls)))
        while True:
            for i in todo:
                if calls[i].function in self._ended:
                    answers[i] = {"status": self._ended[calls[i].function]}
            todo = [i for i in todo if answers[i] is None]
            if not todo or not self._ready():
                return [answer or {"status": "late"} for answer in answers]
            with self._on_the_clock():
                at = todo[0]
                try:
                    batch = [asdict(calls[i]) for i in todo]
                    self._child.send({"calls": batch}, self._deadline())
                    for at in todo:
                        message = self._child.receive(self._deadline())
                        while "ask" in message:
                            result = respond(*message["ask"])
                            self._child.send({"result": result}, self._deadline())
                            message = self._child.receive(self._deadline())
                        answers[at] = plain_answer(message["answer"])
                except _ENDS as error:
                    self._ended[calls[at].function] = _status(error)
                    self.__exit__()

    def _deadline(self) -> float:
        # The alarm inside the child comes first; this one cannot be caught.
        return min(time.monotonic() + 3 * self._limits.call_seconds, self._end)

    @contextlib.contextmanager
    def _on_the_clock(self):
        """Counts the time inside against the submission's."""
        self._end = time.monotonic() + self._left
        try:
            yield
        finally:
            self._left = self._end - time.monotonic()

    def _ready(self) -> bool:
        """Whether there is a process with the submission in it; starts one if there is none."""
        while self._child is None and self._starts and self._left > 0:
            self._starts -= 1
            self.notes = list(self._dropped)
            self._child, end = _Child(), time.monotonic() + self._limits.start_seconds
            try:
                self._child.send(self._job, end)
                self.isolation = str(self._child.receive(end)["isolation"])[:LONGEST]
            except _ENDS as error:
                told = f"{_status(error)}): {self._child.last_words()}"
                self.__exit__()
                raise OSError(f"the grader's own process did not start ({told}") from None
            with self._on_the_clock():
                self._load()
        return self._child is not None and self._left > 0

    def _load(self) -> None:
        """Follows the child through the statements; leaves out the one at which it ended."""
        number, where = None, ""
        try:
            while True:
                message = self._child.receive(self._deadline())
                if "loaded" in message:
                    return
                if "note" in message and len(self.notes) < MOST_NOTES:
                    self.notes.append(str(message["note"])[:LONGEST])
                if "start" in message:
                    number, where = int(message["start"]), str(message["where"])[:LONGEST]
        except _ENDS as error:
            slow = _status(error) == "slow"
            self.__exit__()
        if number is None:
            what = "took too long" if slow else "ended the process"
            self.notes.append(f"reading the code {what}: nothing of it was run")
            self._starts = 0
        else:
            what = "did not end in time" if slow else "ended the whole process"
            self._dropped.append(f"{where}: this statement {what}, and was left out")
            self._job["skip"].append(number)


_ENDS = (_Ended, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)


def _status(error: Exception) -> str:
    return error.args[0] if isinstance(error, _Ended) else "unread"


class _Child:
    """The process, in a fresh folder; killed with all that it started."""

    def __init__(self) -> None:
        site = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="varmini-grade-"))
            self._complaints = stack.enter_context(tempfile.TemporaryFile())
            # -I -S: no environment variables, no start-up files, no packages but those of `site`
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(WORKER), *site],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, cwd=folder,
                env=_environment(folder), start_new_session=True, close_fds=True, bufsize=0,
            )  # fmt: skip
            self._stack = stack.pop_all()
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._buffer = bytearray()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._stack.close()

    def last_words(self) -> str:
        """The last line of what it had to complain about."""
        self._complaints.seek(0)
        lines = self._complaints.read()[-4096:].decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Raises `_Ended` when the child does not take it in time, or is gone."""
        data = pack(message)
        data = memoryview(len(data).to_bytes(4, "big") + data)
        while data:
            _wait(self._in, selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(self._in, data) :]
            except BrokenPipeError:
                raise _Ended("died") from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message; raises `_Ended` when it is late, too large, or there is no child."""
        while len(self._buffer) < 4 or len(self._buffer) < 4 + self._size():
            _wait(self._out, selectors.EVENT_READ, deadline)
            data = os.read(self._out, 1 << 16)
            if not data:
                raise _Ended("died")
            self._buffer += data
        message = unpack(bytes(self._buffer[4 : 4 + self._size()]))
        del self._buffer[: 4 + self._size()]
        return message

    def _size(self) -> int:
        size = int.from_bytes(self._buffer[:4], "big")
        if size > LARGEST:
            raise _Ended("unread")
        return size


def _wait(pipe: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, event)
        left = deadline - time.monotonic()
        if left <= 0 or not selector.select(left):
            raise _Ended("slow")


def _environment(folder: str) -> dict[str, str]:
    environment = {
        "PATH": os.defpath, "HOME": "/nonexistent", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCHINDUCTOR_CACHE_DIR": folder,  # else torch wants to make one in /tmp
    }  # fmt: skip
    if "LD_LIBRARY_PATH" in os.environ:  # some clusters' Pythons do not start without
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment
