"""Muon (Jordan et al. 2024) as `torch.optim.Muon`, but in the machine's own precision.

torch's orthogonalises in bf16 whatever the machine; without the instructions for bf16 that takes
longer than everything else in a small model's step. Matrices of one shape go through it together.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fast.halves import by_shares
from ..runtime.machine import precision

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic iteration: steepest at zero, so that small singular values grow fast."""


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices whose singular values are all about 1 (0.7 to 1.2): (n, a, b) -> same.

    Newton-Schulz on X / |X|: X <- a X + (b X X^T + c (X X^T)^2) X, which keeps singular vectors.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(precision(matrices.device.type))
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps along the Nesterov momentum with all its singular values set to about 1.

    Args:
        params: matrices; a convolution's kernel (out, in, h, w) counts as (out, in h w).
        momentum: share of the running mean of gradients that is kept.
    """

    def __init__(
        self, params, lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient, by two threads as in `fast/halves.py`."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            by_shares(functools.partial(self._step, group), params, _products)

    def _step(self, group: dict[str, Any], params: Sequence[Tensor]) -> None:
        alike = defaultdict(list)
        for p in params:
            alike[p.flatten(1).shape].append(p)
        for (height, width), params in alike.items():
            lr = group["lr"] * math.sqrt(max(1, height / width))
            steps = [self._momentum(p, group["momentum"]).flatten(1) for p in params]
            for p, update in zip(params, orthogonalised(torch.stack(steps))):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.reshape(p.shape), alpha=-lr)

    def _momentum(self, p: Tensor, kept: float) -> Tensor:
        """Nesterov's: the gradient, and the running mean as it will be after it."""
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        mean = self.state[p]["momentum_buffer"]
        return p.grad.lerp(mean.lerp_(p.grad, 1 - kept), kept)


def _products(matrix: Tensor) -> int:
    """What a step costs, up to a factor."""
    return matrix.numel() * min(matrix.flatten(1).shape)
