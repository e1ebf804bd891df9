"""One training step's last part: skips what is not finite, counts it, and names where it began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import distributed
from ..runtime.machine import device


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
        optimizers: Sequence[torch.optim.Optimizer],
        clip: float,
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
        if not self._first and not _is_finite(output):
            self._first = f"the output of {name or type(self.model).__name__}"

    def _bad_gradient(self) -> str:
        """The first in the order of the backward pass."""
        for name, p in reversed(list(self.model.named_parameters())):
            if p.grad is not None and not _is_finite(p.grad):
                return f"the gradient of {name}"
        return ""


def _is_finite(value: Any) -> bool:
    """Whether a module's output, a tensor or a nest of them, holds neither NaN nor infinity."""
    if isinstance(value, Tensor):
        value = value.to_local() if hasattr(value, "to_local") else value  # of FSDP2's shares
        return bool(value.isfinite().all())
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True
