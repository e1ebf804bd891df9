"""SIGTERM and Ctrl-C: saved within the step, the conventional code, the second Ctrl-C at once."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

from varmini.training import checkpoint

from . import kills
from .table import Tried

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def stop(seed: int = 0) -> list[Tried]:
    """Each signal at each training command, once and twice."""
    what = "SIGTERM and Ctrl-C save and end with 143 and 130", "a second Ctrl-C ends at once"
    lines = [Tried("signal", text, seed=seed) for text in what]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for task in (t for t in kills.prepare(folder) if t.resume):
            for number, code in CODES.items():
                for second in (False, True):
                    if second and number == signal.SIGTERM:
                        continue
                    one(lines[second], task, number, code, second, folder)
    for line in lines:
        line.say()
    return lines


def one(line: Tried, task: kills.Task, number: int, code: int, second: bool, folder: Path) -> None:
    line.tried += 1
    out, log = folder / f"{task.name}-{number}-{second}", folder / "log"
    log.write_text("")
    reached = folder / "reached"
    reached.unlink(missing_ok=True)
    save = checkpoint.save

    def before() -> None:
        """The fourth checkpoint is slow, or says that it was reached."""
        seen = []

        def slow(*args, **options) -> None:
            seen.append(1)
            if len(seen) == 4:
                reached.touch()
                time.sleep(60 if second else 0.2)
            save(*args, **options)

        checkpoint.save = slow
        # What a shell starts in the background ignores Ctrl-C from birth.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = kills.child(task, out, log, before=before)
    look = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while not reached.exists() and not os.waitid(os.P_PID, process, look):
        time.sleep(0.005)
    os.kill(process, number)
    if second:
        time.sleep(0.1)
        os.kill(process, number)
    found, told = kills.ended(process), log.read_text()
    if found != code or "Traceback" in told:
        line.fail(f"{task.name}, signal {number}: ended with {found}, not {code}: {told[-1500:]}")
    saved = sorted(p.name for p in out.rglob("step-*"))
    wanted = 3 if second else 4  # the slow one was not waited for
    if not saved or int(saved[-1][5:13]) < wanted or second and int(saved[-1][5:13]) > wanted:
        line.fail(f"{task.name}, signal {number}: {saved} are saved")
    if again := kills.ended(kills.child(task, out, log)):
        line.fail(f"{task.name}, signal {number}: going on ended with {again}: {log.read_text()}")
