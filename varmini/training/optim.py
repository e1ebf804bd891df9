"""Optimizers: the schedule, the groups, the averaged weights, the guarded update."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..runtime import distributed
from ..runtime.machine import can_compile, device
from .muon import Muon


def learning_rate_share(step: int, total: int, warmup: float, decay: float, final: float) -> float:
    """Learning rate at `step` as a share of its peak: linear warm-up, flat, linear decay.

    Args:
        step, total: steps done, from 0, and steps of the whole run.
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


def set_rates(
    optimizers: Iterable[torch.optim.Optimizer], config: Any, step: int, total: int
) -> float:
    """Gives every group its learning rate and weight decay for `step`; returns `lr` times share.

    A group's own "peak" replaces `config.lr`, its "scale" multiplies it.
    """
    share = learning_rate_share(step, total, config.warmup, config.decay, config.final)
    end = getattr(config, "final_weight_decay", None)
    decay = weight_decay_at(step, total, config.weight_decay, end)
    for group in (g for optimizer in optimizers for g in optimizer.param_groups):
        group["lr"] = group.get("peak", config.lr) * share * group.get("scale", 1.0)
        if group["weight_decay"]:
            group["weight_decay"] = decay
    return config.lr * share


def decay_groups(
    model: nn.Module, weight_decay: float, apart: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Optimizer groups: decay for matrices and kernels, none for biases, norms and embeddings.

    A module names further exceptions in a class attribute `no_decay` (parts of parameter names).
    Parameters that stand `apart` are in neither group.
    """
    exceptions, elsewhere = getattr(model, "no_decay", ()), {id(p) for p in apart}
    decay, free = [], []
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in elsewhere:
            exempt = p.ndim < 2 or any(part in name for part in exceptions)
            (free if exempt else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def make_optimizers(
    model: nn.Module, lr: float, weight_decay: float, muon_lr: float = 0.0, *,
    matrices: Sequence[nn.Parameter] | None = None, own: Sequence[dict[str, Any]] = (),
    betas: tuple[float, float] = (0.9, 0.95),
) -> dict[str, torch.optim.Optimizer]:  # fmt: skip
    """AdamW for everything (the paper's), or all but some matrices, which Muon then takes.

    Muon steps along the momentum with all its singular values set to about 1 (Jordan et al. 2024).

    Args:
        lr, muon_lr: peak learning rates; Muon's group carries its own. 0 leaves Muon out.
        matrices: what Muon takes; None for those of `model.blocks`.
        own: groups of AdamW's with settings of their own.
    """
    if not muon_lr:
        matrices = []
    elif matrices is None:
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    apart = [*matrices, *(p for group in own for p in group["params"])]
    groups = [*decay_groups(model, weight_decay, apart), *own]
    optimizers = {"optimizer": torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)}
    if matrices:
        group = {"params": matrices, "peak": muon_lr}
        optimizers["muon"] = Muon([group], lr=muon_lr, weight_decay=weight_decay)
    return optimizers


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `model`; its first update copies the weights."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def blockwise(blocks: Iterable[nn.Module], *, recompute: bool, compile: bool = False) -> None:
    """Prepares the blocks of a network for training.

    Args:
        recompute: keep no activations inside a block; backward computes them again (Chen et al.
            2016), which saves memory and costs one more forward pass.
        compile: fuse each block, on a GPU; on a CPU our own forms are quicker (bench/forms.csv).
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


class Updater:
    """Clips the gradient and steps the optimizers; a step that is not finite is skipped.

    With a fused optimizer the decision falls on the device: the host does not wait for it.

    Args:
        clip: gradient norm, over all processes' shares, above which gradients are scaled down.
        patience: so many skipped steps in a row end the run.
    """

    def __init__(
        self, model: nn.Module, optimizers: Collection[torch.optim.Optimizer],
        clip: float = math.inf, patience: int = 20,
    ) -> None:  # fmt: skip
        self.model, self.optimizers, self.clip, self.patience = model, optimizers, clip, patience
        self.steps, self.in_a_row = 0, torch.zeros((), device=device())
        self.skipped = torch.zeros((), device=device())

    def step(self, loss: Tensor | None = None) -> None:
        """One update, then clears the gradients.

        Args:
            loss: scalar; where it is not finite, the step is skipped whatever the gradient is.

        Raises:
            ValueError: after `patience` skipped steps in a row (on a GPU up to twice as many).
        """
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of FSDP2's shares
        finite = torch.isfinite(norm)
        if loss is not None:
            finite = finite & torch.isfinite(distributed.mean(loss.detach()))
        for optimizer in self.optimizers:
            if optimizer.param_groups[0].get("fused"):
                optimizer.found_inf = (~finite).float()
                optimizer.step()
            elif finite:
                optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.in_a_row = (self.in_a_row + 1) * ~finite
        self.skipped = self.skipped + ~finite
        self.steps += 1
        look = finite.device.type == "cpu" or self.steps % self.patience == 0  # stalls a GPU
        if look and self.in_a_row >= self.patience:
            raise ValueError(
                f"loss or gradient was not finite {self.patience} steps in a row: resume from the "
                f"last checkpoint with a lower --lr"
            )

    def take_skipped(self) -> int:
        """Steps skipped since this was asked last, for the log."""
        count = int(self.skipped)
        self.skipped.zero_()
        return count
