"""InfinityStar's spacetime pyramid, and the transformer over it: VAR's blocks with another mask.

Source: Liu et al. 2025, "InfinityStar" (arXiv:2511.04675): "Spacetime Pyramid Modeling" and
"Spacetime Sparse Attention". The rules are told in `infinity_star.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.scales import ScaleSchedule
from ...model.transformer import Block, KVCache, VARConfig, modulate


class Part(NamedTuple):
    """What is read at once: the class token, a scale of a clip, or a whole clip once more."""

    clip: int
    """From 0; -1 for the class token."""
    scale: int
    """From 0; K where the clip is read whole."""
    at: slice
    """Where it lies in the sequence."""


class SpaceTimePyramid:
    """Which position of the sequence belongs to what, and who may see whom.

    Args:
        sizes: sides of the token maps of a latent frame, coarse to fine.
        clips: latent frames of each clip.
    """

    def __init__(self, sizes: Sequence[int], clips: Sequence[int]) -> None:
        if not clips or min(clips) < 1:
            raise ValueError(f"clips are {clips}, expected lengths of at least 1, as (1, 2, 2, 2)")
        self.schedule, self.clips = ScaleSchedule(sizes), tuple(clips)
        counts, self.parts = self.schedule.tokens_per_scale, [Part(-1, 0, slice(0, 1))]
        for c, length in enumerate(clips):
            whole = counts[-1:] if c + 1 < len(clips) else ()  # nobody reads the last clip
            for k, n in enumerate((*counts, *whole)):
                start = self.parts[-1].at.stop
                self.parts.append(Part(c, k, slice(start, start + length * n)))
        self.length = self.parts[-1].at.stop

    @property
    def drawn(self) -> list[Part]:
        """The parts whose tokens are predicted, in the order in which they are drawn."""
        return [p for p in self.parts if p.clip >= 0 and p.scale < len(self.schedule)]

    def frames(self, clip: int) -> slice:
        """The latent frames of a clip."""
        return slice(sum(self.clips[:clip]), sum(self.clips[: clip + 1]))

    def mask(self) -> Tensor:
        """(length, length) bool, True where query i may attend to key j."""
        mask = torch.zeros(self.length, self.length, dtype=torch.bool)
        for query in self.parts:
            for key in self.parts:
                before = key.clip == query.clip - 1 and key.scale == len(self.schedule)
                mask[query.at, key.at] = query == key or key.clip < 0 or before
        return mask

    def windows(self) -> tuple[Tensor, list[tuple[slice, slice, bool]], Tensor]:
        """The sequence with a class token before each clip: what a clip sees then lies in a row.

        Returns:
            The position of each in the sequence, (n,); for each clip its queries, its keys and that
            these need a mask; and that mask, (n, n), without keys that lie outside.
        """
        order, rectangles, before = [], [], 0
        for c, length in enumerate(self.clips):
            start, own = len(order), [p.at for p in self.parts if p.clip == c]
            order += [0, *range(own[0].start, own[-1].stop)]
            rectangles.append((slice(start, len(order)), slice(start - before, len(order)), True))
            before = length * self.schedule.tokens_per_scale[-1]  # the clip once more, whole
        mask, inside = self.mask()[order][:, order], torch.zeros(len(order), len(order)).bool()
        for at, keys, _ in rectangles:
            inside[at, keys] = True
        return torch.tensor(order), rectangles, mask & inside

    def positions(self) -> Tensor:
        """(2, length): number of each position among a latent frame's, and its latent frame."""
        counts = [*self.schedule.tokens_per_scale, self.schedule.tokens_per_scale[-1]]
        found = [(sum(counts), 0)]  # the class token
        for part in self.parts[1:]:
            at, first = self.frames(part.clip), sum(counts[: part.scale])
            found += [(first + i, t) for t in range(at.start, at.stop)
                      for i in range(counts[part.scale])]  # fmt: skip
        return torch.tensor(found).T


class ClipCache(KVCache):
    """Keys and values of the class token and of one clip, in every block.

    Args:
        whole: the number of scales, by which a part is known that reads a whole clip.
    """

    def __init__(self, whole: int) -> None:
        super().__init__()
        self.whole, self.part = whole, Part(-1, 0, slice(0, 1))

    def append(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As in `KVCache`, but of k, v only those of a whole clip stay, in place of the last's."""
        if self.part.clip < 0:
            return super().append(block, k, v)
        keys, values = self.keys[block], self.values[block]
        if self.part.scale == self.whole:
            self.keys[block] = torch.cat([keys[:, :, :1], k], dim=2)
            self.values[block] = torch.cat([values[:, :, :1], v], dim=2)
        return torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)


class SpaceTimeTransformer(nn.Module):
    """Labels (B,) and inputs (B, length - 1, d) to logits (B, length, 2 d), under that mask.

    Args:
        pyramid: the sequence.
        depth, width, heads, init_gamma: as in `VARConfig`.
        bits, num_classes: d, and the number of classes; the label after them is the null class.
    """

    def __init__(
        self, pyramid: SpaceTimePyramid, *, depth: int, width: int, heads: int, bits: int,
        num_classes: int, init_gamma: float,
    ) -> None:  # fmt: skip
        super().__init__()
        shape = VARConfig(depth=depth, width=width, heads=heads)
        shape.check()
        self.width, positions = width, pyramid.positions()
        self.class_embedding = nn.Embedding(num_classes + 1, width)
        self.space = nn.Embedding(int(positions[0].max()) + 1, width)
        self.time = nn.Embedding(int(positions[1].max()) + 1, width)
        self.word = nn.Linear(bits, width)
        self.modulation = nn.Linear(width, 6 * width * depth)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(depth))
        self.head_modulation, self.head = nn.Linear(width, 2 * width), nn.Linear(width, 2 * bits)
        order, rectangles, mask = pyramid.windows()
        for block in self.blocks:
            block.attention.parts = rectangles  # for quick attention, which computes no others
        self.windows = [at.stop - at.start for at, _, _ in rectangles]
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("positions", positions, persistent=False)
        for name, p in self.named_parameters():  # VAR's start: branches, gates and head small
            if p.ndim == 2:
                branch = name.endswith(("proj.weight", "fc2.weight"))
                std = (1 / width / 3) ** 0.5 / ((2 * depth) ** 0.5 if branch else 1)
                nn.init.trunc_normal_(p, std=0.02 * std if name == "head.weight" else std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        with torch.no_grad():
            gates = self.modulation.weight.view(-1, 6, width, width)
            gates[:, :2] *= init_gamma
            gates[:, 2:] *= 0.5

    def condition(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B,) -> class token (B, 1, w), modulations of the blocks and of the head."""
        embedded = self.class_embedding(labels)
        gate = F.silu(embedded)
        modulations = self.modulation(gate).unflatten(1, (-1, 6, self.width)).transpose(0, 1)
        return embedded[:, None], modulations, self.head_modulation(gate).unflatten(1, (2, -1))

    def step(
        self, x: Tensor, condition: Sequence[Tensor], at: slice | Tensor,
        mask: Tensor | None = None, cache: ClipCache | None = None,
    ) -> Tensor:  # fmt: skip
        """Words (B, l, w) of the positions `at` -> their logits (B, l, 2 d)."""
        x = x + self.space(self.positions[0, at]) + self.time(self.positions[1, at])
        for i, block in enumerate(self.blocks):
            x = block(x, condition[1][i], mask, cache, i)
        scale, shift = condition[2].unsqueeze(2).unbind(1)
        return self.head(modulate(x, scale, shift)).float()

    def forward(self, labels: Tensor, inputs: Tensor) -> Tensor:
        """Teacher forcing: all parts at once."""
        condition = self.condition(labels)
        clips = self.word(inputs).split([n - 1 for n in self.windows], dim=1)
        words = torch.cat([x for clip in clips for x in (condition[0], clip)], dim=1)
        logits = self.step(words, condition, self.order, self.mask).split(self.windows, dim=1)
        return torch.cat([logits[0], *(x[:, 1:] for x in logits[1:])], dim=1)
