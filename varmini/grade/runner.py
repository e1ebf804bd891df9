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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .trees import LARGEST, pack, unpack, walk

WORKER = Path(__file__).with_name("worker.py")
STARTS = 8
"""A submission that brought down so many processes is not started again."""
MOST_NOTES, LONGEST = 50, 1000
"""Notes kept of a submission, and characters of each text that it sends."""
TEXTS = ("status", "type", "text", "where")


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
    """One call of a function of the submission; see `worker.perform`."""

    function: str
    args: tuple
    kind: str = "call"
    numpy: bool = False
    output: int | None = None
    weight: Any = None
    wrt: list = field(default_factory=list)
    value: bool = False
    steps: list = field(default_factory=list)


@dataclass
class Outcome:
    """What came back from the child."""

    answers: list[dict[str, Any]]
    """One for each call, as `worker.perform` says. Further values of "status": "slow" (too long),
    "died" (the process ended), "unread" (makes no sense), "late" (no time left)."""
    notes: list[str]
    """Statements of the submission that failed."""
    isolation: str = ""
    """Which fences were up."""


class _Ended(Exception):
    """The child is gone, or has to go; the argument is a status."""


@dataclass
class _Attempt:
    """How far one process came."""

    deadline: float
    """When the next message must be there, by the monotonic clock."""
    ready: float | None = None
    """When it began with the submission."""
    kind: str = "process"
    """What it was at: a "statement", a "call" or neither."""
    number: int = 0
    where: str = ""


def run_isolated(
    blocks: Sequence[tuple[str, str]],
    calls: Sequence[Call],
    limits: Limits = Limits(),
    kernel: bool = True,
) -> Outcome:
    """Runs a submission in a locked-in process of its own and calls its functions.

    A process that hangs or dies is replaced, without the statement or the function that was
    running: the other functions keep their chance.

    Args:
        blocks: from `read_submission`.
        kernel: False does without the kernel's fences (`lockdown.apply`).

    Raises:
        OSError: when the process does not start, which is not the submission's fault.
    """
    outcome = Outcome([{"status": "late"} for _ in calls], [])
    left_out: list[int] = []
    done: set[int] = set()
    dropped: list[str] = []
    seconds = limits.total_seconds
    for _ in range(STARTS):
        job = {
            "blocks": [tuple(block) for block in blocks],
            "calls": [asdict(call) for call in calls],
            "skip_statements": left_out,
            "skip_calls": sorted(done),
            "call_seconds": limits.call_seconds,
            "cpu_seconds": int(limits.start_seconds + limits.total_seconds) + 1,
            "memory_mb": limits.memory_mb,
            "kernel": kernel,
        }
        outcome.notes = list(dropped)
        attempt = _Attempt(time.monotonic() + limits.start_seconds)
        status = _run_once(job, attempt, outcome, done, limits, seconds)
        if status == "ended":
            break
        seconds -= time.monotonic() - attempt.ready
        if attempt.kind == "statement":
            what = "did not end in time" if status == "slow" else "ended the whole process"
            dropped.append(f"{attempt.where}: this statement {what}, and was left out")
            left_out.append(attempt.number)
        elif attempt.kind == "call":
            # The function is not tried again on other inputs: each would cost a process.
            for i, call in enumerate(calls):
                if call.function == calls[attempt.number].function and i not in done:
                    outcome.answers[i] = {"status": status}
                    done.add(i)
        if attempt.kind == "process":
            what = "took too long" if status == "slow" else "ended the process"
            outcome.notes.append(f"reading the code {what}: nothing of it was run")
        if seconds <= 0 or attempt.kind == "process":
            break
    return outcome


def _run_once(
    job: dict, attempt: _Attempt, outcome: Outcome, done: set[int], limits: Limits, seconds: float
) -> str:
    """One process, from start to end: "ended", or the status that it ended with before its time."""
    with _process(job) as (child, last_words):
        try:
            for message in _messages(child, attempt):
                if attempt.ready is None:
                    attempt.ready = time.monotonic()
                    outcome.isolation = message["isolation"]
                elif "start" in message:
                    kind, number = message["start"]
                    if kind not in ("statement", "call") or type(number) is not int:
                        raise ValueError("neither a statement nor a call")
                    if kind == "call":
                        job["calls"][number]
                    attempt.kind, attempt.number = kind, number
                    attempt.where = str(message["where"])[:LONGEST]
                elif "note" in message and len(outcome.notes) < MOST_NOTES:
                    outcome.notes.append(str(message["note"])[:LONGEST])
                elif "answer" in message and attempt.kind == "call":
                    outcome.answers[attempt.number] = plain_answer(message["answer"])
                    done.add(attempt.number)
                elif "end" in message:
                    return "ended"
                end = attempt.ready + seconds
                # The alarm inside the child comes first; this one cannot be caught.
                attempt.deadline = min(time.monotonic() + 3 * limits.call_seconds, end)
                if time.monotonic() > end:
                    raise _Ended("slow")
        except _Ended as end:
            status = end.args[0]
        except (ValueError, KeyError, TypeError, IndexError, OverflowError):
            status = "unread"
        if attempt.ready is None:
            raise OSError(f"the grader's own process did not start ({status}): {last_words()}")
    return status


def plain_answer(answer: Any) -> dict[str, Any]:
    """An answer with nothing in it but what `worker.perform` may send.

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
        found["changed"] = [int(number) for number in answer.get("changed", ())]
        return found | ({"value": walk(answer["value"], leaf)} if "value" in answer else {})
    except (AttributeError, ValueError, TypeError, OverflowError, RecursionError):
        return {"status": "unread"}


@contextlib.contextmanager
def _process(job: dict[str, Any]) -> Iterator[tuple[subprocess.Popen, Any]]:
    """The child in a fresh folder, with its job on the way; killed with all it started."""
    site = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    environment = {
        "PATH": os.defpath, "HOME": "/nonexistent", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    if "LD_LIBRARY_PATH" in os.environ:  # some clusters' Pythons do not start without
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    with (
        tempfile.TemporaryDirectory(prefix="varmini-grade-") as folder,
        tempfile.TemporaryFile() as complaints,
        tempfile.TemporaryFile() as jobfile,
    ):
        environment["TORCHINDUCTOR_CACHE_DIR"] = folder  # else torch wants to make one in /tmp
        jobfile.write(pack(job))
        jobfile.seek(0)
        # -I -S: no environment variables, no start-up files, no packages but those of `site`
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WORKER), *site],
            stdin=jobfile, stdout=subprocess.PIPE, stderr=complaints, cwd=folder,
            env=environment, start_new_session=True, close_fds=True,
        )  # fmt: skip

        def last_words() -> str:
            complaints.seek(0)
            lines = complaints.read()[-4096:].decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else "it said nothing"

        try:
            yield child, last_words
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()


def _messages(child: subprocess.Popen, attempt: _Attempt) -> Iterator[dict[str, Any]]:
    """The child's messages; raises `_Ended` when one is late, too large, or there is no child."""
    pipe = child.stdout.fileno()
    buffer, total = bytearray(), 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            while len(buffer) >= 4:
                size = int.from_bytes(buffer[:4], "big")
                if size > LARGEST:
                    raise _Ended("unread")
                if len(buffer) < 4 + size:
                    break
                message = unpack(bytes(buffer[4 : 4 + size]))
                del buffer[: 4 + size]
                yield message
            if not selector.select(max(0.0, attempt.deadline - time.monotonic())):
                raise _Ended("slow")
            data = os.read(pipe, 1 << 16)
            total += len(data)
            if not data:
                raise _Ended("died")
            if total > 32 * LARGEST:
                raise _Ended("unread")
            buffer += data
