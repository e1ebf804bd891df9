"""What every training loop shares: schedule, averaging, updates, stopping; with it, under one
name, the machine and the folder of a run."""

from __future__ import annotations

import functools
import math
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import distributed
from .machine import batch_for, can_compile, device, provenance, to_device
from .muon import Muon
from .precision import autocast, precision
from .run_folder import Run, check_folder, make_folder
from .updater import Updater

__all__ = [
    "Run", "StopSignal", "Updater", "autocast", "averaged", "batch_for", "blockwise",
    "can_compile", "check_folder", "decay_groups", "device", "learning_rate_share", "make_folder",
    "precision", "progress", "provenance", "to_device", "uniform", "weight_decay_at",
]  # fmt: skip

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


def weight_decay_at(step: int, total: int, start: float, end: float | None) -> float:
    """Weight decay at `step`: from `start` to `end` along half a cosine (official `--twde`)."""
    if end is None:
        return start
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / max(1, total - 1)))


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


def make_optimizers(
    model: nn.Module, lr: float, weight_decay: float, muon_lr: float = 0.0
) -> dict[str, torch.optim.Optimizer]:
    """AdamW for everything (the paper's), or all but the blocks' matrices, which Muon then takes.

    Muon steps along the momentum with all its singular values set to about 1 (Jordan et al. 2024).

    Args:
        model: a transformer with its layers in `blocks`, if Muon is asked for.
        lr, muon_lr: peak learning rates; Muon's groups carry theirs as "peak". 0 leaves Muon out.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if muon_lr else []
    groups = decay_groups(model, weight_decay, apart=matrices)
    adamw = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    if not matrices:
        return {"optimizer": adamw}
    group = {"params": matrices, "peak": muon_lr}
    return {
        "optimizer": adamw,
        "muon": Muon([group], lr=muon_lr, weight_decay=weight_decay),
    }


def uniform(seed: int, step: int, rows: int, columns: int) -> torch.Tensor:
    """(rows, columns) float32 in [0, 1): the random numbers of a step, for its global batch."""
    numbers = np.random.default_rng((seed, step)).random((rows, columns), dtype=np.float32)
    return torch.from_numpy(numbers)


class _Average(AveragedModel):
    """torch's average, but its count of updates stays on the host: sending it would stall a GPU."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        averages, weights = list(self.module.parameters()), list(model.parameters())
        if self.n_averaged == 0:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)
        else:
            # w_avg <- decay w_avg + (1 - decay) w
            self.multi_avg_fn(averages, weights, None)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += 1


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `model`; its first update copies the weights."""
    return _Average(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)


def blockwise(blocks: Iterable[nn.Module], *, recompute: bool, compile: bool) -> None:
    """Prepares the blocks of a network for training.

    Args:
        recompute: keep no activations inside a block; backward computes them again (Chen et al.
            2016), which saves memory and costs one more forward pass.
        compile: fuse each block with torch.compile, on a GPU and where the machine can; on a CPU
            the forms written out by hand are quicker (data/bench/forms.csv).
    """
    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        if recompute:
            # Random numbers reach a block from outside, so there is no state to put back.
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
        if compile and device().type == "cuda" and can_compile():
            block.forward = torch.compile(block.forward)


# --------------------------------------------------------------------------- stopping and progress


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a request that the loop sees after its step.

    The second signal ends the process at once, as usual; under torchrun it is ignored, because a
    preempted job's processes are told both by the scheduler and by torchrun.
    """

    AGREE_EVERY = 4
    """Steps between two questions to the other processes, who must all stop after the same one."""

    def __init__(self) -> None:
        self.received = 0
        self._noted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self._noted = number
        if distributed.world() == 1:
            self.received = number
            self._put_back()

    def agree(self, step: int) -> None:
        """Sees to it that all processes know after the same step that one has to stop."""
        if distributed.world() > 1 and step % self.AGREE_EVERY == 0:
            self.received = distributed.largest(self._noted)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(self, *error: object) -> None:
        self._put_back()

    def exit_if_received(self, out: Path) -> None:
        """Leaves with code 128 + signal once a signal came; the state is saved by then."""
        if self.received:
            if distributed.is_main():
                say = f"stopped; everything is saved: go on with --resume --out {out}"
                print(say, file=sys.stderr)
            raise SystemExit(128 + self.received)


def progress(steps: Iterable[Any], name: str, done: int = 0) -> Any:
    """A tqdm bar over `steps`, of which `done` were made before; it redraws twice a second.

    Under torchrun only the first process shows it.
    """
    from tqdm.auto import tqdm

    look = {"unit": "step", "mininterval": 0.5, "dynamic_ncols": True}
    hidden = not distributed.is_main()
    return tqdm(steps, name, done + len(steps), initial=done, disable=hidden, **look)
