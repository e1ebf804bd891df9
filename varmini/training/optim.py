"""Optimizers: their groups, the schedule, the guarded update, the averaged weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..runtime import distributed
from ..runtime.machine import can_compile, device

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


# --------------------------------------------------------------------------------------- optimizers


def decay_groups(
    model: nn.Module, weight_decay: float, apart: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Optimizer groups: decay for matrices and kernels, none for biases, norms and embeddings.

    A module names further exceptions in a class attribute `no_decay` (parts of parameter names).

    Args:
        apart: parameters that the caller puts elsewhere.
    """
    exceptions, elsewhere = getattr(model, "no_decay", ()), {id(p) for p in apart}
    decay, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in elsewhere:
            plain = parameter.ndim < 2 or any(part in name for part in exceptions)
            (free if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def make_optimizers(
    model: nn.Module, lr: float, weight_decay: float, muon_lr: float = 0.0
) -> dict[str, torch.optim.Optimizer]:
    """AdamW for everything (the paper's), or all but the blocks' matrices, which Muon then takes.

    Muon steps along the momentum with all its singular values set to about 1 (Jordan et al. 2024).

    Args:
        model: a transformer with its layers in `blocks`, if Muon is asked for.
        lr, muon_lr: peak learning rates; Muon's group carries its own. 0 leaves Muon out.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if muon_lr else []
    groups = decay_groups(model, weight_decay, apart=matrices)
    optimizers = {"optimizer": torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)}
    if matrices:
        group = {"params": matrices, "peak": muon_lr}
        optimizers["muon"] = torch.optim.Muon([group], lr=muon_lr, weight_decay=weight_decay)
    return optimizers


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


def blockwise(blocks: Iterable[nn.Module], *, recompute: bool, compile: bool = False) -> None:
    """Prepares the blocks of a network for training.

    Args:
        recompute: keep no activations inside a block; backward computes them again (Chen et al.
            2016), which saves memory and costs one more forward pass.
        compile: fuse each block with torch.compile, on a GPU and where the machine can; on a CPU
            the forms written out by hand are quicker (results/bench/forms.csv).
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


# ------------------------------------------------------------------------------------------- update


class Updater:
    """Clips the gradient and steps the optimizers; a step that is not finite is skipped.

    With a fused optimizer the decision falls on the device: the host does not wait for it. After a
    skipped step the modules are watched until a step succeeds, so that the message of a run that
    gives up can name the first one whose output was not finite.

    Args:
        clip: gradient norm, over all processes' shares, above which gradients are scaled down.
        patience: so many skipped steps in a row end the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Collection[torch.optim.Optimizer],
        clip: float = math.inf,
        patience: int = 20,
    ) -> None:
        self.model, self.optimizers, self.clip, self.patience = model, optimizers, clip, patience
        self.steps, self.skipped_in_a_row = 0, torch.zeros((), device=device())
        self._skipped = torch.zeros((), device=device())
        self._hooks: list[Any] = []
        self._first = ""

    def step(self, loss: Tensor | None = None) -> None:
        """One update, then clears the gradients.

        Args:
            loss: scalar; where it is not finite, the step is skipped whatever the gradient is.

        Raises:
            ValueError: after `patience` skipped steps in a row (on a GPU up to twice as many),
                naming the first module with a non-finite output, else the first such gradient.
        """
        if self._hooks and not self._first:
            self._first = self._bad_gradient()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if hasattr(norm, "full_tensor"):  # of FSDP2's shares
            norm = norm.full_tensor()
        finite = torch.isfinite(norm)
        if loss is not None:
            finite = finite & torch.isfinite(distributed.mean(loss.detach()))
        for optimizer in self.optimizers:
            if optimizer.param_groups[0].get("fused"):
                optimizer.found_inf = (~finite).float()
                optimizer.step()
            elif finite:
                optimizer.step()
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * ~finite
        self._skipped = self._skipped + ~finite
        self.steps += 1
        if finite.device.type == "cpu" or self.steps % self.patience == 0:
            self._look()
        self.model.zero_grad(set_to_none=True)

    def take_skipped(self) -> int:
        """Steps skipped since this was asked last, for the log."""
        count = int(self._skipped)
        self._skipped.zero_()
        return count

    def _look(self) -> None:
        first, self._first = self._first, ""
        if self.skipped_in_a_row >= self.patience:
            raise ValueError(
                f"{first or 'the loss'} was not finite {self.patience} steps in a row: resume from "
                f"the last checkpoint with a lower --lr"
            )
        if not self.skipped_in_a_row:
            while self._hooks:
                self._hooks.pop().remove()
        elif not self._hooks:
            self._hooks = [
                module.register_forward_hook(lambda *call, name=name: self._note(name, call[2]))
                for name, module in self.model.named_modules()
            ]

    def _note(self, name: str, output: Any) -> None:
        """Called after the forward pass of every watched module, innermost first."""
        if not self._first and isinstance(output, Tensor) and not _is_finite(output):
            self._first = f"the output of {name or type(self.model).__name__}"

    def _bad_gradient(self) -> str:
        """The first in the order of the backward pass."""
        for name, p in reversed(list(self.model.named_parameters())):
            if p.grad is not None and not _is_finite(p.grad):
                return f"the gradient of {name}"
        return ""


def _is_finite(x: Tensor) -> bool:
    x = x.to_local() if hasattr(x, "to_local") else x  # of FSDP2's shares
    return bool(x.isfinite().all())
