"""The machine a run is on: its device, what it can do, where a result comes from.

Every assumption about a processor stands here. Apple's MPS and ARM could not be tried by us.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# ------------------------------------------------------------------------------------------- device


def device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU; the environment variable VARMINI_DEVICE overrides it.

    Raises ValueError when the variable holds anything else, or a device that is not here.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = [*(name for name in found if found[name]), "cpu"]
    asked = os.environ.get("VARMINI_DEVICE", "") or here[0]
    if asked not in here:
        raise ValueError(
            f"the device (VARMINI_DEVICE or --device) is {asked!r}, expected one that torch finds "
            f"on this machine: {' or '.join(here)}"
        )
    return torch.device(asked)


def to_device(x: Tensor) -> Tensor:
    """Sends a batch on its way to the device; nothing waits for it to arrive."""
    if device().type == "cuda":
        return x.pin_memory().to(device(), non_blocking=True)
    return x.to(device())


def what_is_missing(error: Exception) -> str:
    """What to set after an `error` that says the device lacks an operator or a type; else ""."""
    words = str(error)
    if "not currently implemented for the MPS device" in words:
        fix = "set PYTORCH_ENABLE_MPS_FALLBACK=1 (that operator then runs on the CPU)"
    elif "MPS framework doesn't support float64" in words:
        fix = "it has no float64"
    else:
        return ""
    name = re.search(r"aten::[\w.]+", words)
    what = f"operator {name[0]}" if name else "type"
    return f"this device lacks the {what}: {fix}, or set VARMINI_DEVICE=cpu (--device cpu)"


# ---------------------------------------------------------------------------------------- precision


@functools.cache
def precision(kind: str = "") -> torch.dtype:
    """The type for matrix products: bfloat16 where it makes them quicker.

    The environment variable VARMINI_PRECISION ("float32" or "bfloat16") overrides the probe. There
    is no float16: training in it needs a scaled loss.

    Args:
        kind: "cpu", "cuda" or "mps"; "" for that of `device`.

    Raises:
        ValueError: when the variable holds anything else.
    """
    asked = os.environ.get("VARMINI_PRECISION", "")
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked and asked not in known:
        raise ValueError(f"VARMINI_PRECISION is {asked!r}, expected 'float32' or 'bfloat16'")
    return known[asked or ("bfloat16" if quick_at_bfloat16(kind or device().type) else "float32")]


@functools.cache
def quick_at_bfloat16(kind: str) -> bool:
    """Whether a device's bf16 products are quicker than those in float32: timed once, not assumed.

    Some processors with bf16 instructions take twice as long by them, others a quarter.

    Args:
        kind: as in `precision`.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    exact = torch.ones(256, 512)
    try:
        # oneDNN may be told to use fewer instructions than there are (ONEDNN_MAX_CPU_ISA).
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        best = {}
        for x in [exact, exact.bfloat16()] * 5:
            start = time.perf_counter()
            y = torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
            best[y.dtype] = min(best.get(y.dtype, math.inf), time.perf_counter() - start)
    except (RuntimeError, AttributeError):  # a build without oneDNN, or it refuses
        return False
    # Seen: 0.5 times as quick, or 2 to 8 times. Nothing lies near the bound, so the same machine
    # answers alike every time.
    return best[torch.float32] > 1.4 * best[torch.bfloat16]


def kind_of_machine() -> str:
    """What figures of speed depend on: "AVX2", "AVX512", "AVX512, bfloat16", "cuda" and so on."""
    kind = device().type
    name = torch.backends.cpu.get_cpu_capability() if kind == "cpu" else kind
    return name + ", bfloat16" * quick_at_bfloat16(kind)


@functools.cache
def slow_at_gelu() -> bool:
    """Whether GELU is quicker by a sigmoid: so it is with the instructions of AVX2 (forms.csv).

    Not timed: where both are as quick, each process would choose anew, and round anew.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def autocast(kind: str = "") -> contextlib.AbstractContextManager:
    """Runs matrix products in `precision()`; the weights stay float32."""
    kind = kind or device().type
    if precision(kind) is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(kind, precision(kind))


def cores_for_halves() -> bool:
    """Whether two threads may share a CPU's work: of one process, and one that waits sleeps."""
    asleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return asleep and world() == 1 and torch.get_num_threads() > 1


# ------------------------------------------------------------------------- memory, compiler, origin


def batch_for(image_size: tuple[int, int]) -> int:
    """Images to encode or decode at a time without a gradient: four million pixels, at most 250."""
    return max(1, min(250, 2**22 // (image_size[0] * image_size[1])))


def world() -> int:
    """How many processes work together; `distributed` brings them together."""
    return dist.get_world_size() if dist.is_initialized() else 1


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

    Raises ValueError naming the largest count that would fit, on all processes together.
    """
    together, free = world(), free_memory()
    need = together * (fixed + count * each)
    if device().type != "cpu" or need <= free:
        return
    fits = together * int((free / together - fixed) // each)
    advice = f"{option} {fits} would fit" if fits > 0 else "a smaller model is needed"
    raise ValueError(
        f"{together * count} {what} need about {need / 1e9:,.1f} GB, {free / 1e9:,.1f} GB of "
        f"memory are free: {advice}"
    )


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler and Python's headers."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(c and shutil.which(c) for c in compilers)


def provenance() -> dict[str, Any]:
    """Where a result comes from: command, commit, date, hardware, versions, threads, precision."""

    def git(*command: str) -> str:
        here, silent = Path(__file__).parents[1], {"stderr": subprocess.DEVNULL, "text": True}
        try:
            return subprocess.check_output(["git", *command], cwd=here, **silent).strip()
        except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
            return ""

    def shown(argument: str) -> str:  # where a folder lies is this machine's affair
        path = Path(argument)
        return Path(*path.parts[1:][-2:]).as_posix() if path.is_absolute() else argument

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    kind = device().type
    gpu = f", {torch.cuda.get_device_name()}" if kind == "cuda" else ", MPS" * (kind == "mps")
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    dirty = " with uncommitted changes" * bool(git("status", "--porcelain", "--", ":(top)*.py"))
    program = Path(sys.argv[0])
    name = "varmini" if program.stem in ("varmini", "__main__") else program.name
    return {
        "command": shlex.join([name, *map(shown, sys.argv[1:])]),
        "commit": commit + dirty,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": f"{cpu}, {os.cpu_count()} cores{gpu}",
        "processes": world(),
        "threads": torch.get_num_threads(),
        "precision": str(precision()).split(".")[1],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
