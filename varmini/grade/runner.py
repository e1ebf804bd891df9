"""The parent's side: starts the child, feeds it, watches the clock, and starts it again."""

from __future__ import annotations

import contextlib
import os
import select
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
STARTS = 8  # a submission that brought down so many processes is not started again
MOST_NOTES, LONGEST = 50, 1000
"""Notes kept of a submission, and characters of each."""
ENVIRONMENT = {
    "PATH": os.defpath, "HOME": "/nonexistent", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    call_seconds: float = 5.0
    """Processor seconds for one statement or one call; by the clock, three times as many."""
    total_seconds: float = 120.0  # by the clock, for everything, restarts included
    start_seconds: float = 120.0  # for a process to load torch; not the submission's to spend
    memory_mb: int = 2048  # MiB of memory on top of what torch takes


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


# Whatever else a child sends can make no worse than these.
_ENDS = (_Ended, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)


def _status(error: Exception) -> str:
    return error.args[0] if isinstance(error, _Ended) else "unread"


class Session(contextlib.AbstractContextManager):
    """A submission in a locked-in process of its own, whose functions can be called.

    A process that hangs or dies is replaced, without the statement or the function that was
    running: the other functions keep their chance.

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
        seconds = int(limits.start_seconds + limits.total_seconds) + 1
        self._job = asdict(limits) | {"cpu_seconds": seconds, "kernel": kernel, "skip": []}
        self._job["blocks"] = [tuple(block) for block in blocks]
        self._dropped: list[str] = []
        self._ended: dict[str, str] = {}
        """Functions that ended a process, and how: each further try would cost another one."""
        self._child: _Child | None = None

    def __exit__(self, *error: Any) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def call(
        self, calls: Sequence[Call], respond: Callable[[str, Any], list | None] | None = None
    ) -> list[dict[str, Any]]:
        """One answer a call, as `calls.perform` says; `respond` as there.

        Further values of "status": "slow" (too long), "died" (the process ended), "unread" (makes
        no sense), "late" (no time left). Raises an OSError when the process does not start, which
        is not the submission's fault.
        """
        answers: list[dict[str, Any] | None] = [None] * len(calls)
        while True:
            for i, call in enumerate(calls):
                if answers[i] is None and call.function in self._ended:
                    answers[i] = {"status": self._ended[call.function]}
            todo = [i for i, answer in enumerate(answers) if answer is None]
            if not todo or not self._ready():
                return [answer or {"status": "late"} for answer in answers]
            at = todo[0]
            try:
                self._talk(self._child.send, {"calls": [asdict(calls[i]) for i in todo]})
                for at in todo:
                    while "ask" in (message := self._talk(self._child.receive)):
                        self._talk(self._child.send, {"result": respond(*message["ask"])})
                    answers[at] = plain_answer(message["answer"])
            except _ENDS as error:
                self._ended[calls[at].function] = _status(error)
                self.__exit__()

    def _talk(self, method: Callable, *args: Any) -> Any:
        """Sends or receives a message; the time that it takes counts against the submission's."""
        # The alarm inside the child comes first; this deadline cannot be caught.
        start = time.monotonic()
        try:
            return method(*args, start + min(3 * self._limits.call_seconds, self._left))
        finally:
            self._left -= time.monotonic() - start

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
            self._load()
        return self._child is not None and self._left > 0

    def _load(self) -> None:
        """Follows the child through the statements; leaves out the one at which it ended."""
        number, where = None, ""
        try:
            while "loaded" not in (message := self._talk(self._child.receive)):
                if "note" in message and len(self.notes) < MOST_NOTES:
                    self.notes.append(str(message["note"])[:LONGEST])
                if "start" in message:
                    number, where = int(message["start"]), str(message["where"])[:LONGEST]
            return
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


class _Child:
    """The process, in a fresh folder; killed with all that it started."""

    def __init__(self) -> None:
        site = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="varmini-grade-"))
            self._complaints = stack.enter_context(tempfile.TemporaryFile())
            environment = ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": folder}  # else one in /tmp
            if "LD_LIBRARY_PATH" in os.environ:  # some clusters' Pythons do not start without
                environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
            # -I -S: no environment variables, no start-up files, no packages but those of `site`
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(WORKER), *site],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, cwd=folder,
                env=environment, start_new_session=True, close_fds=True, bufsize=0,
            )  # fmt: skip
            self._stack = stack.pop_all()
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def close(self) -> None:
        with self._stack, self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

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
            _wait([], [self._in], deadline)
            try:
                data = data[os.write(self._in, data) :]
            except BrokenPipeError:
                raise _Ended("died") from None

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message; raises `_Ended` when it is late, too large, or there is no child."""
        size = int.from_bytes(self._read(4, deadline), "big")
        if size > LARGEST:
            raise _Ended("unread")
        return unpack(self._read(size, deadline))

    def _read(self, count: int, deadline: float) -> bytes:
        data = b""
        while len(data) < count:
            _wait([self._out], [], deadline)
            part = os.read(self._out, count - len(data))
            if not part:
                raise _Ended("died")
            data += part
        return data


def _wait(reading: list[int], writing: list[int], deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not any(select.select(reading, writing, [], left)):
        raise _Ended("slow")
