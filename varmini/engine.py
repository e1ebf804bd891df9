"""What every training loop shares: precision, schedule, averaging, stopping, logging."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import functools
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .pretrained import read_json, write_atomic

# ---------------------------------------------------------------------------------------- precision


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def precision() -> torch.dtype:
    """The type for matrix products: bfloat16 where the machine has instructions for it.

    The environment variable VARMINI_PRECISION ("float32" or "bfloat16") overrides the probe.

    Raises:
        ValueError: when the variable holds anything else.
    """
    asked = os.environ.get("VARMINI_PRECISION", "")
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked:
        if asked not in known:
            raise ValueError(f"VARMINI_PRECISION is {asked!r}, expected 'float32' or 'bfloat16'")
        return known[asked]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    abilities = torch.cpu.get_capabilities()
    fast = abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def autocast() -> contextlib.AbstractContextManager:
    """Runs matrix products in `precision()`; the weights stay float32."""
    if precision() is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device().type, precision())


# ----------------------------------------------------------------------------------------- schedule


def learning_rate_share(step: int, total: int, warmup: float, decay: float, final: float) -> float:
    """Learning rate at `step` as a share of its peak: linear warm-up, flat, linear decay.

    Args:
        step: steps done, from 0.
        total: steps of the whole run.
        warmup, decay: share of the run spent rising and falling (official code: 1/50 rising).
        final: the share left at the end (official code: 0.01 to 0.1).
    """
    rise, fall = max(1.0, warmup * total), max(1.0, decay * total)
    left = (total - step) / fall
    return min((step + 1) / rise, 1.0) * (final + (1 - final) * min(left, 1.0))


def decay_groups(
    model: nn.Module, weight_decay: float, apart: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Optimizer groups: decay for matrices and kernels, none for biases, norms and embeddings.

    A module names further exceptions in a class attribute `no_decay` (parts of parameter names).

    Args:
        apart: parameters that the caller puts elsewhere.
    """
    exceptions, elsewhere = getattr(model, "no_decay", ()), {id(p) for p in apart}
    decay, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in elsewhere:
            plain = parameter.ndim < 2 or any(part in name for part in exceptions)
            (rest if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def averaged(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential moving average of `model`: w_avg <- decay w_avg + (1 - decay) w."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)


class Updater:
    """Clips the gradient and steps the optimizers; a step with a non-finite gradient is skipped.

    Args:
        clip: gradient norm above which gradients are scaled down.
        patience: so many skipped steps in a row end the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        clip: float,
        patience: int = 20,
    ) -> None:
        self.model, self.optimizers, self.clip, self.patience = model, optimizers, clip, patience
        self.skipped_in_a_row = 0

    def step(self) -> None:
        """One update, then clears the gradients.

        Raises:
            ValueError: after `patience` skipped steps in a row, naming the first parameter whose
                gradient is not finite.
        """
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row >= self.patience:
                bad = next(
                    (
                        name
                        for name, p in self.model.named_parameters()
                        if p.grad is not None and not torch.isfinite(p.grad).all()
                    ),
                    "?",
                )
                raise ValueError(
                    f"the gradient of {bad} was not finite {self.patience} steps in a "
                    f"row: resume from the last checkpoint with a lower --lr"
                )
        self.model.zero_grad(set_to_none=True)


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler and Python's headers."""
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return headers.exists() and any(c and shutil.which(c) for c in compilers)


# ------------------------------------------------------------------------- stopping, folder and log


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a request that the loop sees after its step.

    The second signal ends the process at once, as usual.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.received = number
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._put_back()

    def exit_if_received(self, out: Path) -> None:
        """Leaves with code 128 + signal once a signal came; the state is saved by then."""
        if self.received:
            print(f"stopped; everything is saved: go on with --resume --out {out}", file=sys.stderr)
            raise SystemExit(128 + self.received)


FREE_ON_RESUME = {"images", "log_every", "checkpoint_every", "held_out", "workers", "compile"}
"""Settings that may change when a run goes on; any other would mix two runs."""


def check_folder(out: str | os.PathLike, config: Any, *, overwrite: bool, resume: bool) -> Path:
    """Checks that a run may use the folder `out`; touches nothing.

    Raises:
        ValueError: when `out` is a file or holds files and neither `overwrite` nor `resume` is set,
            when no run wrote it, or when the run to resume had another configuration.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the run: choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return out
    if not (overwrite or resume):
        raise ValueError(
            f"{out} already holds a run: add --resume to go on with it, "
            f"--overwrite to replace it, or choose another --out"
        )
    if not (out / "run.json").exists():
        raise ValueError(
            f"{out} is not a folder that a varmini run wrote (no run.json in it), "
            f"so it is left alone: choose another --out"
        )
    if resume:
        before = read_json(out / "run.json").get("config", {})
        for key, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
            if key not in FREE_ON_RESUME and before.get(key) != value:
                raise ValueError(
                    f"{out} was started with {key}={before.get(key)}, not {value}: "
                    f"resume with the same, or choose another --out"
                )
    return out


def make_folder(out: Path, *, clear: bool) -> Path:
    """Makes the checked folder of a run.

    Args:
        clear: remove what an earlier run wrote; run.json stays until `Run` replaces it, so that a
            crash in between leaves a folder that can still be overwritten.

    Raises:
        ValueError: when it cannot be made.
    """
    if clear and (out / "run.json").exists():
        for name in ("log.csv", "config.json", "model.safetensors"):
            (out / name).unlink(missing_ok=True)
        for path in (*(out / "state").glob("*"), *(out / "tokens").glob("*")):
            path.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another --out") from None
    return out


def provenance() -> dict[str, Any]:
    """Where a result comes from: command, commit, date, hardware, versions, threads, precision."""

    def ask(*command: str) -> str:
        here = Path(__file__).resolve().parent
        done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in open("/proc/cpuinfo")
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    commit = ask("git", "rev-parse", "--short=12", "HEAD")
    if commit and ask("git", "status", "--porcelain", "--", "*.py"):
        commit += " with uncommitted changes"
    command = " ".join(
        [
            "varmini"
            if Path(sys.argv[0]).stem in ("varmini", "__main__")
            else Path(sys.argv[0]).name,
            *sys.argv[1:],
        ]
    )
    return {
        "command": command,
        "commit": commit or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": f"{cpu}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "threads": torch.get_num_threads(),
        "precision": str(precision()).split(".")[1],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class Run:
    """The folder of one training run: `run.json` (config and provenance) and `log.csv`.

    Args:
        start_step: rows after this step are dropped from an earlier log, as they will come again.
    """

    def __init__(self, out: Path, config: Any, start_step: int = 0) -> None:
        self.path = out / "log.csv"
        self.rows: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        sessions = []
        if start_step and self.path.exists():
            with open(self.path, newline="") as file:
                self.rows = [r for r in csv.DictReader(file) if int(r["step"]) <= start_step]
            self.seconds_before = float(self.rows[-1]["seconds"]) if self.rows else 0.0
            if (out / "run.json").exists():
                sessions = read_json(out / "run.json")["sessions"]
        sessions.append({"from_step": start_step} | provenance())
        write_atomic(
            out / "run.json",
            json.dumps(
                {"config": dataclasses.asdict(config), "sessions": sessions}, indent=1
            ).encode(),
        )
        self.begin = time.perf_counter()

    def log(self, step: int, images: int, values: dict[str, float | None]) -> None:
        """Adds a row to log.csv; a value of None leaves its cell empty."""
        seconds = self.seconds_before + time.perf_counter() - self.begin
        row = {"step": step, "images": images, "seconds": f"{seconds:.1f}"}
        row |= {k: "" if v is None else f"{v:.6g}" for k, v in values.items()}
        self.rows.append(row)
        columns = list(dict.fromkeys(k for r in self.rows for k in r))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.path, text.getvalue().encode())


def progress(steps: Iterable[Any], name: str, done: int = 0) -> Any:
    """A tqdm bar over `steps`, of which `done` were made before; it redraws twice a second."""
    from tqdm.auto import tqdm

    total = done + len(steps)
    return tqdm(steps, name, total, initial=done, unit="step", mininterval=0.5, dynamic_ncols=True)
