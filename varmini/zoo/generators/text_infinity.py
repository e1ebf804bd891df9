"""Infinity as it was made: from text to a picture of any shape, scale by scale, bit by bit.

Source: Han et al. 2024, "Infinity" (arXiv:2412.04431), section 3.1 and the released code: the
caption's states, pooled, are the start and set AdaLN; each block also looks at the single words.

    t = Encoder(caption);   p(r_1, ..., r_K | caption) = prod_k p(r_k | r_1, ..., r_{k-1}, t)
    block:  x <- x + Cross(x, t);  x <- Block(x, mean of t),  VAR's with AdaLN

Scales need not be square: those of a scene are 1 x 2, 2 x 4, 3 x 6, 4 x 8, one aspect ratio as the
paper has fifteen. All else (bits, self-correction, loss, drawing) is in `infinity.py`.

Left out: rotary positions. Changed: a small text encoder of our own (`text/pretraining.py`) in
place of Flan-T5; the mean of the words in place of attention pooling; cross-attention before VAR's
block, between whose two branches the paper has it; the empty caption for guidance, where the paper
learns a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...model.config import VARConfig
from ...model.transformer import VAR, Block, KVCache
from ..text.reading import CrossAttention, Read, TextEncoder, TextGenerator, words_of
from .infinity import Infinity, InfinityConfig


@dataclass(frozen=True, kw_only=True)
class TextInfinityConfig(InfinityConfig):
    """Shape of a `TextInfinity`; `num_classes` means nothing here."""

    sizes: tuple[tuple[int, int], ...] = ((1, 2), (2, 4), (3, 6), (4, 8))
    """Height and width of the token maps, coarse to fine."""
    text_depth: int = 2
    """Blocks of the text encoder."""


class ReadingBlock(nn.Module):
    """Cross-attention to the words, then VAR's block."""

    def __init__(self, block: Block, config: VARConfig) -> None:
        super().__init__()
        self.cross, self.block = CrossAttention(config.width, config.heads), block

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, Read],
        mask: Tensor | None,
        cache: KVCache | None = None,
        block: int = 0,
    ) -> Tensor:
        """As `Block`, with what this block has read beside its modulation."""
        own, text = modulation
        return self.block(self.cross(x, text), own, mask, cache, block)


class TextVAR(VAR):
    """VAR whose class vector is the mean of a caption's words, and whose blocks read them."""

    def __init__(self, config: VARConfig, text_depth: int) -> None:
        super().__init__(config)
        self.class_embedding = nn.Identity()  # `condition` gets the vector itself
        self.blocks = nn.ModuleList(ReadingBlock(block, config) for block in self.blocks)
        self.text = TextEncoder(config.width, config.heads, text_depth)

    def condition(self, labels: Tensor) -> tuple[Tensor, list[tuple[Tensor, Read]], Tensor]:
        """As in `VAR`, of captions (B, T); each block's modulation comes with what it has read."""
        states, seen = self.text(labels), words_of(labels)
        weights = seen / seen.sum(1, keepdim=True)
        start, modulations, head = super().condition((weights[..., None] * states).sum(1))
        read = [block.cross.read(states, seen) for block in self.blocks]
        return start, list(zip(modulations, read)), head

    def forward(self, labels: Tensor, teacher_inputs: Tensor) -> Tensor:
        """Teacher forcing: captions (B, T), inputs (B, L - h_1 w_1, C) -> logits (B, L, V)."""
        start, modulations, head = self.condition(labels)
        words = self.word(teacher_inputs.to(self.word.weight))
        x = torch.cat([start, words.to(start.dtype)], dim=1)  # (B, L, w)
        x = x + self.position + self.level_embedding(self.level_ids)
        for block, modulation in zip(self.blocks, modulations):
            x = block(x, modulation, self.mask)
        return self.head(self.before_head(x, head)).float()


class TextInfinity(TextGenerator, Infinity):
    """Learns from features (B, d, H, W) and captions (B, T), draws pyramids of these captions."""

    config_class = TextInfinityConfig
    kind = "text-infinity"
    no_decay = (*VAR.no_decay, "text.word")
    by_rows = ("network",)

    def __init__(self, config: TextInfinityConfig) -> None:
        super().__init__(config)
        self.network = TextVAR(self.network.config, config.text_depth)
