"""The pyramid's geometry: which token belongs to which scale, and who may see whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from numbers import Integral

import torch
from torch import Tensor

from .checks import as_pyramid

Size = int | tuple[int, int]


class ScaleSchedule:
    """The sizes of the K token maps, coarse to fine, and all that follows from them.

    A token pyramid is a list of K LongTensors, the k-th (B, h_k, w_k); flattened, it is (B, L),
    scale after scale and row by row inside a scale (VAR, section 3.2).

    Args:
        sizes: one entry a scale: a side, or a pair (height, width). Neither may shrink.

    Raises:
        ValueError: when there is no scale, a side is not a positive integer, or a scale shrinks.
    """

    def __init__(self, sizes: Iterable[Size]) -> None:
        if not isinstance(sizes, Iterable):
            raise ValueError(f"sizes is {sizes!r}, expected a list such as (1, 2, 4)")
        self.grids: tuple[tuple[int, int], ...] = tuple(_grid(size) for size in sizes)
        if not self.grids:
            raise ValueError("sizes is empty, expected at least one scale, for example (1, 2, 4)")
        for (h, w), (next_h, next_w) in zip(self.grids, self.grids[1:]):
            if next_h < h or next_w < w:
                raise ValueError(
                    f"scale {next_h}x{next_w} is smaller than {h}x{w} before it: order the sizes "
                    f"from coarse to fine"
                )

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes as given: an int for a square map, a pair (h, w) for another."""
        return tuple(h if h == w else (h, w) for h, w in self.grids)

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        """h_k w_k for every scale."""
        return tuple(h * w for h, w in self.grids)

    @property
    def num_tokens(self) -> int:
        """L, the tokens of all scales together."""
        return sum(self.tokens_per_scale)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each scale lies in the flat sequence of L tokens."""
        ends = accumulate(self.tokens_per_scale)
        return tuple(slice(end - n, end) for n, end in zip(self.tokens_per_scale, ends))

    def level_ids(self) -> Tensor:
        """(L,) LongTensor: the scale, from 0, that each token belongs to."""
        return torch.tensor([k for k, n in enumerate(self.tokens_per_scale) for _ in range(n)])

    def mask(self) -> Tensor:
        """(L, L) bool block-causal mask, True where query i may attend to key j.

        mask[i, j] = level(i) >= level(j): a token sees its own map and all coarser ones
        (VAR, section 3.2 and figure 4).
        """
        level = self.level_ids()
        return level[:, None] >= level[None, :]

    def flatten(self, tokens: Sequence[Tensor]) -> Tensor:
        """Pyramid to sequence: K tensors (B, h_k, w_k) -> (B, L).

        Raises:
            ValueError: when the maps do not fit this schedule.
        """
        return torch.cat([t.flatten(1) for t in as_pyramid(tokens, self)], dim=1)

    def unflatten(self, sequence: Tensor) -> list[Tensor]:
        """Sequence to pyramid: (B, L) -> K tensors (B, h_k, w_k).

        Raises:
            ValueError: when the sequence does not hold L tokens.
        """
        if sequence.ndim != 2 or sequence.shape[1] != self.num_tokens:
            raise ValueError(
                f"sequence has shape {tuple(sequence.shape)}, expected (B, {self.num_tokens}) "
                f"for {self}"
            )
        return [sequence[:, at].unflatten(1, grid) for at, grid in zip(self.slices, self.grids)]

    def __len__(self) -> int:
        return len(self.grids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScaleSchedule) and self.grids == other.grids

    def __hash__(self) -> int:
        return hash(self.grids)

    def __repr__(self) -> str:
        return f"ScaleSchedule({self.sizes})"


def _grid(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, Integral) else size
    fits = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
    if not fits or any(not isinstance(n, Integral) or isinstance(n, bool) or n < 1 for n in pair):
        raise ValueError(f"scale size {size!r} is not a positive integer or a pair of them")
    return int(pair[0]), int(pair[1])
