"""The machine a run is on: its device, what it can do, where a result comes from."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import distributed
from .precision import precision


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(x: Tensor) -> Tensor:
    """Sends a batch on its way to the device; nothing waits for it to arrive."""
    if device().type == "cuda":
        return x.pin_memory().to(device(), non_blocking=True)
    return x


def batch_for(image_size: tuple[int, int]) -> int:
    """Images to encode or decode at a time without a gradient: four million pixels, at most 250."""
    return max(1, min(250, 2**22 // (image_size[0] * image_size[1])))


def free_memory() -> float:
    """Bytes that this process may still take: of the machine, its container and its own limit."""
    free, group = math.inf, Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024.0 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # no container, or one whose limit is "max"
        most, used = (int((group / f"memory.{x}").read_text()) for x in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(stat.get(f"{x}_file", 0)) for x in ("active", "inactive"))
        free = min(free, most - used + cached)  # what only mirrors files makes room
    with contextlib.suppress(ImportError, OSError):  # not Linux
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free = min(free, limit - pages * resource.getpagesize())
    return max(free, 0.0)


def check_memory(what: str, option: str, count: int, each: float, fixed: float = 0.0) -> None:
    """Refuses on a CPU what its memory does not hold, before any is taken.

    Args:
        what: that takes memory, in words; option: how the command calls its number.
        count: how many are asked for, on this process.
        each, fixed: bytes for each of them, and for all else.

    Raises:
        ValueError: naming the largest count that would fit, on all processes together.
    """
    world, free = distributed.world(), free_memory()
    need = world * (fixed + count * each)
    if device().type != "cpu" or need <= free:
        return
    fits = world * int((free / world - fixed) // each)
    advice = f"{option} {fits} would fit" if fits > 0 else "a smaller model is needed"
    raise ValueError(
        f"{world * count} {what} need about {need / 1e9:,.1f} GB, {free / 1e9:,.1f} GB of memory "
        f"are free: {advice}"
    )


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler and Python's headers."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(c and shutil.which(c) for c in compilers)


def provenance() -> dict[str, Any]:
    """Where a result comes from: command, commit, date, hardware, versions, threads, precision."""

    def ask(*command: str) -> str:
        here = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    commit = ask("git", "rev-parse", "--short=12", "HEAD")
    if commit and ask("git", "status", "--porcelain", "--", "*.py"):
        commit += " with uncommitted changes"
    program = Path(sys.argv[0])
    name = "varmini" if program.stem in ("varmini", "__main__") else program.name
    return {
        "command": " ".join([name, *sys.argv[1:]]),
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": f"{cpu}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "precision": str(precision()).split(".")[1],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
