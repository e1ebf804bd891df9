"""`make torture`: everything, within an hour on two cores, into one table.

    PYTHONPATH=tests python -m torture [SECTION ...] [--seed N] [--kills N] [--cases N] [--out FILE]

Sections: kill rubbish starved. Exit code 1 when anything failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("VARMINI_PRECISION", "float32")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from . import kills, rubbish, starved
from .table import Tried, write


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture")
    known = ("kill", "rubbish", "starved")
    parser.add_argument("sections", nargs="*", choices=[[], *known], default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=120, help="at least so many SIGKILLs")
    parser.add_argument("--cases", type=int, default=20_000, help="spoiled inputs")
    parser.add_argument("--out", type=Path, help="CSV table to write")
    o = parser.parse_args()
    torch.set_num_threads(1)  # a forked child has no other threads
    run = {
        "kill": (kills.kill_and_resume, o.seed, o.kills),
        "rubbish": (rubbish.throw_rubbish, o.seed, o.cases),
        "starved": (starved.starve, o.seed),
    }
    lines, begin, fork = [], time.monotonic(), multiprocessing.get_context("fork")
    for name in o.sections or known:
        # Each in a process of its own: the sections put toys in the place of different things.
        with ProcessPoolExecutor(1, fork) as pool:
            lines += pool.submit(*run[name]).result()
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


if __name__ == "__main__":
    raise SystemExit(main())
