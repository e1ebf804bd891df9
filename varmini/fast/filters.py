"""A quick `filter_logits`: numpy's vector instructions sort, on a CPU in float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..model.checks import check_filter
from ..model.filters import rule_out
from .halves import by_halves

LARGE_MAP = 2**17
"""From so many logits on, two threads sort sooner than one."""


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """As `model.filters.filter_logits`."""
    check_filter(top_k, top_p)
    if not (0 < top_k < logits.shape[-1] or 0 < top_p < 1):
        return logits
    if logits.device.type != "cpu" or logits.dtype is not torch.float32:
        return rule_out(logits, logits.sort(dim=-1).values, top_k, top_p)

    def filtered(_: int, rows: Tensor) -> Tensor:
        return rule_out(rows, largest_sorted(rows, top_k), top_k, top_p)

    rows = logits.reshape(-1, logits.shape[-1])
    if rows.numel() < LARGE_MAP:
        return filtered(0, rows).view_as(logits)
    return torch.cat(by_halves(filtered, 0, rows)).view_as(logits)


def largest_sorted(rows: Tensor, top_k: int) -> Tensor:
    """Of rows (N, V) the `top_k` largest and all that ties with them, from small to large.

    Where that is more than a third, or top_k is 0, all.
    """
    x, top_k = rows.detach().numpy(), int(top_k)  # -top_k of a uint8 would be positive
    if 0 < top_k <= x.shape[1] // 3:
        x = np.partition(x, -top_k, axis=1)
        with_ties = int((x >= x[:, -top_k, None]).sum(1).max(initial=top_k))
        x = (x if with_ties == top_k else np.partition(x, -with_ties, axis=1))[:, -with_ties:]
    return torch.from_numpy(np.sort(x, axis=1))
