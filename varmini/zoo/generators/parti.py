"""Parti: an encoder reads the caption, a decoder writes the picture's codes, row by row.

Source: Yu et al. 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation"
(arXiv:2206.10789): text to image as translation, over the codes of ViT-VQGAN.

    t = Encoder(caption);   p(x_1, ..., x_N | caption) = prod_i p(x_i | x_1, ..., x_{i-1}, t)
    block:  x <- x + Cross(x, t);  x <- x + Attn(LN(x));  x <- x + FFN(LN(x))
    L = -1/N sum_i log p(x_i | x_1, ..., x_{i-1}, t), with the empty caption in a tenth of the steps

The paper draws 1,024 codes of a square picture, with guidance 1.2, and shows the best of 16 by a
network that compares picture and text. Left out: that choice. Changed: GPT's block after the
cross-attention, which the paper has between its two branches; the codes are the bed's VQGAN's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts import with_null
from ..text.reading import CrossAttention, Read, TextEncoder, TextGenerator, words_of
from .causal import Cache, CausalTransformer, initialise
from .generator import draw_in_order


@dataclass(frozen=True)
class PartiConfig:
    """Shape of a `Parti`: 16 depth width^2 parameters, 12 text_depth width^2, and embeddings."""

    depth: int = 6
    """Blocks of the decoder."""
    text_depth: int = 2
    """Blocks of the encoder."""
    width: int = 128
    """Channels of both."""
    heads: int = 4
    """Attention heads."""
    grid: tuple[int, int] = (4, 8)
    """Height and width of the token map."""
    vocab_size: int = 512
    """Codes in the tokenizer's codebook."""
    label_dropout: float = 0.1
    """Chance that a training picture is shown the empty caption, for guidance."""


class Parti(TextGenerator):
    """Position 0 predicts x_1; position i reads x_i and predicts x_{i+1}; all read the caption."""

    config_class = PartiConfig
    kind = "parti"
    no_decay = ("embedding", "position", "text.word", "start")
    by_rows = ("",)

    def __init__(self, config: PartiConfig) -> None:
        super().__init__()
        self.config, c, w = config, config, config.width
        self.text = TextEncoder(w, c.heads, c.text_depth)
        self.start = nn.Parameter(torch.zeros(1, 1, w))
        self.embedding = nn.Embedding(c.vocab_size, w)
        self.decoder = CausalTransformer(math.prod(c.grid), c.depth, w, c.heads)
        self.cross = nn.ModuleList(CrossAttention(w, c.heads) for _ in range(c.depth))
        self.head = nn.Linear(w, c.vocab_size, bias=False)
        initialise(self)

    def read(self, captions: Tensor) -> list[Read]:
        """Keys and values of the words for every block; captions (B, T)."""
        states, seen = self.text(captions), words_of(captions)
        return [cross.read(states, seen) for cross in self.cross]

    def decode(
        self, text: list[Read], tokens: Tensor, cache: Cache | None = None, first: int = 0
    ) -> Tensor:
        """Logits (B, l, V), float32, of the tokens after those given.

        Args:
            tokens: (B, n), the first n < N; positions `first` to n, l in all, are computed.
            cache: holds the positions before `first`, and after this call also the new ones.
        """
        start = self.start.expand(len(tokens), -1, -1)
        x = torch.cat([start, self.embedding(tokens)], dim=1)[:, first:]
        x = x + self.decoder.position[first : first + x.shape[1]]
        kept = cache or [None] * self.config.depth
        for cross, block, words, own in zip(self.cross, self.decoder.blocks, text, kept):
            x = block(cross(x, words), own)
        return self.head(self.decoder.norm(x)).float()

    def forward(self, captions: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: captions (B, T), the first n tokens (B, n) -> logits (B, n + 1, V)."""
        return self.decode(self.read(captions), tokens)

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy a token, in nats: tokens (B, height, width), captions (B, T)."""
        flat = tokens.flatten(1)
        logits = self(self.shown(labels), flat[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), flat.flatten())

    def steps(self, **options: object) -> int:
        """One a token."""
        return math.prod(self.config.grid)

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        guidance: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
        cached: bool = True,
    ) -> Tensor:
        """Draws the tokens one by one: a LongTensor (B, height, width).

        Args:
            labels: captions (B, T).
            guidance: s of u + s (c - u), where u reads the empty caption; 1 is none.
            top_k, top_p: as in `varmini.model.filters.filter_logits`.
            seed: the same seed and batch give the same tokens.
            cached: keep keys and values; otherwise every step computes all positions anew.
        """
        text = self.read(with_null(labels, self.null, guidance))
        cache = self.decoder.new_cache() if cached else None

        def following(tokens: Tensor, captions: Tensor) -> Tensor:
            return self.decode(text, tokens, cache, tokens.shape[1] if cached else 0)[:, -1]

        tokens = draw_in_order(following, labels, self.steps(), self.null, guidance=guidance,
                               seed=seed, top_k=top_k, top_p=top_p)  # fmt: skip
        return tokens.unflatten(1, self.config.grid)
