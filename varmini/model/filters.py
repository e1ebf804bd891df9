"""From logits to tokens: guidance, top-k and top-p, drawing, and soft mixtures of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_filter


def guide(
    conditional: Tensor, unconditional: Tensor, k: int, num_scales: int, cfg: float
) -> Tensor:
    """Classifier-free guidance with VAR's ramp over the scales.

    t = cfg k / (K - 1), with k from 0;  logits = (1 + t) conditional - t unconditional.
    """
    t = cfg * k / max(1, num_scales - 1)
    return (1 + t) * conditional - t * unconditional


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Rules out unlikely tokens: first all but the top_k, then all outside the nucleus top_p.

    Args:
        logits: (..., V).
        top_k: how many to keep; ties with the k-th stay. 0, or V and more, keeps all.
        top_p: keep the smallest set of likeliest tokens whose probability, of what top-k leaves,
            reaches top_p (Holtzman et al. 2020); the likeliest and ties with the last stay. 0 or 1
            keeps all.

    Returns:
        A tensor (..., V) with -inf at the tokens ruled out.

    Raises:
        ValueError: when top_k is negative or top_p is outside [0, 1].
    """
    check_filter(top_k, top_p)
    vocab = logits.shape[-1]
    if not (0 < top_k < vocab or 0 < top_p < 1):
        return logits
    return rule_out(logits, logits.sort(dim=-1).values, top_k, top_p)


def rule_out(logits: Tensor, ordered: Tensor, top_k: int, top_p: float) -> Tensor:
    """`filter_logits`, given the logits from small to large: all, or the top_k and their ties."""
    count = ordered.shape[-1]
    least = ordered[..., count - int(top_k), None] if 0 < top_k < count else ordered[..., :1]
    if 0 < top_p < 1:
        # From the least likely upwards: a token goes when it and all below it hold at most 1 - p
        # of what top-k leaves.
        held = (ordered.softmax(-1) * (ordered >= least)).cumsum(-1)
        gone = torch.searchsorted(held, (1 - top_p) * held[..., -1:], right=True)
        least = ordered.gather(-1, gone.clamp(max=count - 1))
    return torch.where(logits < least, float("-inf"), logits)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: logits (B, l, V) and uniform numbers (B, l) in [0, 1) -> (B, l).

    The drawn token is the first whose cumulative probability exceeds the uniform number.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Scaled by the total, which rounding leaves near 1; a ruled-out token has no share to hit.
    threshold = uniform[..., None] * cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return drawn.clamp(max=logits.shape[-1] - 1)


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
    return ((logits * (1 + rho) + noise) / tau).softmax(-1) @ codebook.to(logits.dtype)
