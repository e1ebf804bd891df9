"""`make torture`: everything, within an hour on two cores, into one table.

    PYTHONPATH=tests python -m torture [SECTION ...] [--seed N] [--kills N] [--cases N] [--out FILE]

Sections: kill signal rubbish starved. Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ.setdefault("VARMINI_PRECISION", "float32")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from . import kills, rubbish, starved, stops
from .table import Tried, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture")
    known = ("kill", "signal", "rubbish", "starved")
    parser.add_argument("sections", nargs="*", choices=[[], *known], default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=120, help="at least so many SIGKILLs")
    parser.add_argument("--cases", type=int, default=20_000, help="spoiled inputs")
    parser.add_argument("--out", type=Path, help="CSV table to write")
    o = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no other threads
    run = {
        "kill": lambda: kills.kill_and_resume(o.seed, o.kills),
        "signal": lambda: stops.stop(o.seed),
        "rubbish": lambda: rubbish.throw_rubbish(o.seed, o.cases),
        "starved": lambda: starved.starve(o.seed),
    }
    lines, begin = [], time.monotonic()
    for name in o.sections or known:
        # Each in a process of its own: the sections put toys in the place of different things.
        lines += apart(run[name])
        # Other work on the machine lengthens the first of the two times, not the second.
        minutes = (time.monotonic() - begin) / 60, sum(os.times()[:4]) / 60
        note = "{:.1f} minutes by the clock, {:.1f} of processor time".format(*minutes)
        failures = [text for line in lines for text in line.failures]
        whole = Tried("all", "the sum of all lines", sum(t.tried for t in lines), failures, o.seed)
        whole.note = note
        if o.out:
            write(o.out, [*lines, whole])
    print(f"{whole.tried} tried, {len(failures)} failed, {note}")
    return int(bool(failures))


def apart(section) -> list[Tried]:
    """Runs a section in a forked process and brings its lines back."""
    with tempfile.NamedTemporaryFile("r+") as file:
        sys.stdout.flush()
        process = os.fork()
        if not process:
            code = 1
            try:
                Path(file.name).write_text(json.dumps([vars(line) for line in section()]))
                code = 0
            except BaseException:  # noqa: B902  a fork must not go on as its parent
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
            raise SystemExit("a section of the torture broke off: see above")
        return [Tried(**line) for line in json.loads(Path(file.name).read_text())]


if __name__ == "__main__":
    raise SystemExit(main())
