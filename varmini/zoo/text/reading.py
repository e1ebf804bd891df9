"""How a generator reads a caption: a text encoder, and cross-attention to its states.

Source: Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), section 3.2.3: queries
of the decoder, keys and values of the encoder,

    A = softmax(Q K^T / sqrt(d)) V,   Q = W_q LN(x),  K = W_k t,  V = W_v t

for positions x (l, w) of the picture and states t (T, w) of the words. Keys and values do not
change while a picture is drawn, so they are computed once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..generators.generator import Generator
from .grammar import EMPTY, LENGTH, WORDS, as_captions


class Read(NamedTuple):
    """What a block of a generator has read of captions."""

    k: Tensor
    """(B, heads, T, d), keys."""
    v: Tensor
    """(B, heads, T, d), values."""
    seen: Tensor
    """(B, 1, 1, T) bool: words and their end, not what fills up."""


def words_of(captions: Tensor) -> Tensor:
    """True at the words and the first `END` of captions (B, T): (B, T) bool."""
    return (captions == EMPTY).cumsum(1) <= 1


class TextEncoder(nn.Module):
    """A small bidirectional transformer over the words: captions (B, T) -> states (B, T, w)."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.word = nn.Embedding(len(WORDS), width)
        self.position = nn.Parameter(torch.zeros(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True,
                                           norm_first=True)  # fmt: skip
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width),
                                            enable_nested_tensor=False)  # fmt: skip
        for table in (self.word.weight, self.position):  # alike, or words would drown positions
            nn.init.normal_(table, std=0.02)

    def forward(self, captions: Tensor) -> Tensor:
        """LongTensor (B, T) -> (B, T, w)."""
        x = self.word(captions) + self.position
        return self.blocks(x, src_key_padding_mask=~words_of(captions))


class CrossAttention(nn.Module):
    """x <- x + W A, with A as above; positions of the picture look at the words."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def read(self, states: Tensor, seen: Tensor) -> Read:
        """Keys and values of states (B, T, w); seen (B, T) bool, the words that count."""
        k, v = self.kv(states).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return Read(k, v, seen[:, None, None])

    def forward(self, x: Tensor, text: Read) -> Tensor:
        """x (B, l, w) and what `read` gave -> (B, l, w)."""
        q = self.q(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, l, d)
        mixed = F.scaled_dot_product_attention(q, text.k.to(q), text.v.to(q), attn_mask=text.seen)
        return x + self.proj(mixed.transpose(1, 2).flatten(2))


class TextGenerator(Generator):
    """p(tokens | caption): a `Generator` with captions (B, T) in place of labels (B,).

    Guidance subtracts the empty caption; `draw` takes texts, or what `grammar.encode` made of them.
    """

    null = EMPTY

    def shown(self, labels: Tensor) -> Tensor:
        """Captions as a training step shows them: in training mode some are the empty one."""
        if not self.training:
            return labels
        dropped = torch.rand(len(labels), device=labels.device) < self.config.label_dropout
        return labels.masked_fill(dropped[:, None], EMPTY)

    def conditions(self, given: str | list[str] | Tensor) -> Tensor:
        """Texts, or captions (B, T); raises as `as_captions`."""
        return as_captions(given)
