"""From logits to tokens: top-k, top-p, guidance, drawing, and soft mixtures of codes."""

from __future__ import annotations

import numbers

import numpy as np
import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Rules out unlikely tokens: first all but the top_k, then all outside the nucleus top_p.

    Args:
        logits: (..., V).
        top_k: how many to keep; ties with the k-th stay. 0, or V and more, keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability reaches top_p
            (Holtzman et al. 2020); the likeliest and ties with the last stay. 0 or 1 keeps all.

    Returns:
        A tensor (..., V) with -inf at the tokens ruled out.

    Raises:
        ValueError: when top_k is negative or top_p is outside [0, 1].
    """
    check_filter(top_k, top_p)
    vocab = logits.shape[-1]
    if not (0 < top_k < vocab or 0 < top_p < 1):
        return logits
    # One sort of the values serves both; which token they belong to is not needed.
    ordered = _ascending(logits)
    least = ordered[..., vocab - top_k, None] if 0 < top_k < vocab else ordered[..., :1]
    if 0 < top_p < 1:
        # From the least likely upwards: a token goes when it and all below it hold at most 1 - p
        # of what top-k leaves (a product, as torch.where picks number by number on a CPU).
        held = (ordered.softmax(-1) * (ordered >= least)).cumsum(-1)
        gone = torch.searchsorted(held, (1 - top_p) * held[..., -1:], right=True)
        least = ordered.gather(-1, gone.clamp(max=vocab - 1))
    return torch.where(logits < least, float("-inf"), logits)  # quicker here than masked_fill


def _ascending(logits: Tensor) -> Tensor:
    """The values of every row from small to large."""
    if logits.device.type == "cpu":
        # numpy sorts with vector instructions, torch does not (results/bench/forms.csv).
        return torch.from_numpy(np.sort(logits.detach().numpy(), axis=-1))
    return logits.sort(dim=-1).values


def check_filter(top_k: int, top_p: float) -> None:
    """Raises a ValueError unless top_k and top_p are what `filter_logits` takes."""
    if not isinstance(top_k, numbers.Integral) or not isinstance(top_p, numbers.Real):
        raise ValueError(
            f"top_k is {top_k!r} and top_p {top_p!r}, expected an integer and a number"
        )
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected 0 (keep all) or a positive number of tokens")
    if not 0 <= top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a probability in [0, 1] (0 or 1 keeps all)")


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: logits (B, l, V) and uniform numbers (B, l) in [0, 1) -> (B, l).

    The drawn token is the first whose cumulative probability exceeds the uniform number.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Scaled by the total, which rounding leaves near 1; a ruled-out token has no share to hit.
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (
        torch.searchsorted(cumulative, threshold, right=True)
        .squeeze(-1)
        .clamp(max=logits.shape[-1] - 1)
    )


def guide(
    conditional: Tensor, unconditional: Tensor, k: int, num_scales: int, cfg: float
) -> Tensor:
    """Classifier-free guidance with VAR's ramp over the scales.

    t = cfg k / (K - 1), with k from 0;  logits = (1 + t) conditional - t unconditional.
    """
    t = cfg * k / max(1, num_scales - 1)
    return (1 + t) * conditional - t * unconditional


def smoothed(logits: Tensor, noise: Tensor, codebook: Tensor, k: int, num_scales: int) -> Tensor:
    """A soft mixture of codes instead of a hard choice: smoother pictures, for display only.

    weights = softmax((logits (1 + rho) + Gumbel) / tau) with rho = k / (K - 1) and
    tau = max(0.27 (1 - 0.95 rho), 0.005).

    Args:
        logits: (B, l, V), filtered.
        noise: (B, l, V) standard Gumbel numbers.
        codebook: (V, C).

    Returns:
        (B, l, C).
    """
    rho = k / max(1, num_scales - 1)
    tau = max(0.27 * (1 - 0.95 * rho), 0.005)
    return ((logits * (1 + rho) + noise) / tau).softmax(-1) @ codebook
