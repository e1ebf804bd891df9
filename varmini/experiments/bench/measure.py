"""How speed is measured: runs in turn, peak memory, arithmetic, and the machine's ceilings."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from ...fast.layers import QuickLinear
from ...runtime.machine import device, precision, quick_at_bfloat16
from ...runtime.tables import Row

Run = Callable[[], Any]


def name_of(dtype: torch.dtype) -> str:
    """ "bfloat16" of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def short(value: float | None) -> str:
    """Four digits; nothing where nothing was measured."""
    return "" if value is None else f"{value:.4g}"


def seconds_of(run: Run) -> float:
    """How long `run` takes, once; on a GPU until it has finished."""
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if device().type != "cpu":
        getattr(torch, device().type).synchronize()


def in_turn(runs: Mapping[Any, Run], rounds: int, limit: float) -> dict[Any, list[float]]:
    """Seconds of every run, one after the other, round after round.

    A busy moment then hits all alike. One round that does not count has to be over before.

    rounds: at most so many, and at least one; none begins when `limit` seconds have passed.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    begin = time.perf_counter()
    for done in range(rounds):
        if done and time.perf_counter() - begin > limit * done / (done + 1):
            break
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return seconds


def in_pairs(runs: Mapping[str, Run], rounds: int, limit: float) -> Row:
    """Columns of a row: milliseconds of two runs, and how many times as fast the first one is.

    Times are medians. rounds, limit: as in `in_turn`.
    """
    in_turn(runs, 1, 0)  # warms up
    seconds = in_turn(runs, rounds, limit)
    ratios = [slow / fast for fast, slow in zip(*seconds.values())]
    return {
        **{f"{name}_ms": short(1e3 * statistics.median(each)) for name, each in seconds.items()},
        "times_as_fast": short(statistics.median(ratios)),
        "ratio_low": short(min(ratios)),
        "ratio_high": short(max(ratios)),
        "rounds": len(ratios),
    }


def peak_memory(run: Run) -> float | None:
    """Most memory during `run` above what was held before, in MiB; None where it cannot be read.

    On a CPU that is all the process holds, so a first run counts the kernels compiled for it, too.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed does not count as held
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is held
        before = _status("VmRSS")
    except (OSError, AttributeError):
        before = None
    run()
    return None if before is None else max(0, _status("VmHWM") - before) / 2**10


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def precisions() -> list[torch.dtype]:
    """What is measured here: float32, and bfloat16 where the machine is quicker at it."""
    return [torch.float32, *([torch.bfloat16] if quick_at_bfloat16(device().type) else [])]


@contextlib.contextmanager
def arithmetic(dtype: torch.dtype) -> Iterator[None]:
    """Inside, `machine.precision` is `dtype`, and `machine.autocast` follows it."""
    with mock.patch.dict(os.environ, VARMINI_PRECISION=name_of(dtype)):
        precision.cache_clear()
        try:
            yield
        finally:
            precision.cache_clear()


@torch.no_grad()
def ceilings(side: int = 2048, rounds: int = 5) -> dict[str, float]:
    """What the machine does at most, by the best of a few rounds.

    By name of a type: FLOP/s of a matrix product of `side`, by torch's own product or by the packed
    one of `QuickLinear`, whichever is quicker. "bandwidth": bytes a second, by a copy or a sum of
    256 MiB.
    """
    found, where = {}, device()

    def least(**runs: Run) -> dict[str, float]:
        in_turn(runs, 1, 0)  # warms up
        return {name: min(each) for name, each in in_turn(runs, rounds, 60).items()}

    for dtype in precisions():
        a, b = (torch.randn(side, side, device=where).to(dtype) for _ in range(2))
        layer = QuickLinear(side, side).to(where)
        layer.lay_out(where.type, dtype)  # where oneDNN's product works, weights in its order
        seconds = least(torch=partial(F.linear, a, b), packed=partial(layer, a))
        found[name_of(dtype)] = 2 * side**3 / min(seconds.values())
    block = torch.zeros(2**26, device=where)
    into = torch.empty_like(block)
    seconds = least(copy=lambda: into.copy_(block), sum=block.sum)
    size = 4 * block.numel()
    return found | {"bandwidth": max(2 * size / seconds["copy"], size / seconds["sum"])}
