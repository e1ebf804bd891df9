"""Raster AR: one token after the other, row by row, by a Llama-like transformer.

Source: Sun et al. 2024, "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation"
(LlamaGen, arXiv:2406.06525): RMSNorm, SwiGLU, 2D rotary positions, the class as first token.

    p(x_1, ..., x_N | class) = prod_i softmax(Llama(class, x_1, ..., x_{i-1})_i)[x_i]
    L = -1/N sum_i log p(x_i | x_1, ..., x_{i-1}, class)

Left out: its dropout of 0.1, because the toy sees every image about once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .generator import Generator, draw_in_order


@dataclass(frozen=True)
class RasterARConfig:
    """Shape of a `RasterAR`: about 12 depth width^2 parameters."""

    depth: int = 6
    """Transformer blocks."""
    width: int = 128
    """Channels of the residual stream; width / heads must be a multiple of 4."""
    heads: int = 4
    """Attention heads."""
    side: int = 8
    """Side of the token map."""
    vocab_size: int = 1024
    """Codes in the tokenizer's codebook."""
    num_classes: int = 10
    """Classes; the label after the last one is the null class."""
    label_dropout: float = 0.1
    """Chance that a training image is shown the null class, for guidance."""


def rotary_table(side: int, head_dim: int, base: float = 1e4) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the 2D rotary positions, each (1 + side^2, head_dim / 2).

    Half of the pairs of a head turn with the row, half with the column, by angles
    n base^(-4 i / head_dim). The class comes first and has zeros for both, as in the official code:
    its query and key vanish, so it is looked at with logit 0 and only its value counts.
    """
    angle = torch.arange(side)[:, None] * base ** (-torch.arange(0, head_dim, 4) / head_dim)
    rows, columns = angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)
    turns = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return F.pad(turns.cos(), (0, 0, 1, 0)), F.pad(turns.sin(), (0, 0, 1, 0))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns neighbouring pairs of x (B, heads, l, d) by the angles in cos, sin (l, d / 2)."""
    a, b = x.float().unflatten(3, (-1, 2)).unbind(4)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=4).flatten(3).to(x.dtype)


class Block(nn.Module):
    """x <- x + Attn(RMSNorm(x));  x <- x + W_2(silu(W_1 h) * W_3 h) with h = RMSNorm(x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = 32 * math.ceil(8 * width / 3 / 32)  # as many weights as a plain layer of 4 width
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.w13 = nn.Linear(width, 2 * hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: list | None = None
    ) -> Tensor:
        """(B, l, w) -> (B, l, w). With a cache, keys and values of x are added to those in it."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            cache[:] = [torch.cat(pair, dim=2) for pair in zip(cache, (k, v))] if cache else (k, v)
            k, v = cache
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        gate, up = self.w13(self.norm2(x)).chunk(2, dim=2)
        return x + self.w2(F.silu(gate) * up)


class RasterAR(Generator):
    """Next-token prediction: p(x_1, ..., x_N | class) = prod_i p(x_i | x_1, ..., x_{i-1}, class).

    Position 0 reads the class and predicts x_1; position i reads x_i and predicts x_{i+1}.
    """

    config_class = RasterARConfig
    kind = "raster-ar"
    by_rows = ("",)
    no_decay = ("class_embedding", "token_embedding")

    def __init__(self, config: RasterARConfig) -> None:
        super().__init__()
        self.config, w = config, config.width
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.token_embedding = nn.Embedding(config.vocab_size, w)
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.depth))
        self.norm = nn.RMSNorm(w, eps=1e-5)
        self.head = nn.Linear(w, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.side, w // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        mask = torch.ones(config.side**2, config.side**2, dtype=torch.bool).tril()
        self.register_buffer("mask", mask, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of all tokens that follow from the class and the tokens before them.

        Args:
            labels: (B,) in [0, num_classes].
            tokens: (B, n), the first n < N; N - 1 in training. Gives (B, n + 1, V) float32.
        """
        x = torch.cat([self.class_embedding(labels)[:, None], self.token_embedding(tokens)], dim=1)
        n = x.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:n], self.sin[:n], self.mask[:n, :n])
        return self.head(self.norm(x)).float()

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """-1/N sum_i log p(x_i | x_1, ..., x_{i-1}, class), averaged over the batch.

        tokens: (B, side, side); labels: (B,) in [0, num_classes).
        """
        flat = tokens.flatten(1)
        logits = self(self.shown(labels), flat[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), flat.flatten())

    def steps(self, **options: object) -> int:
        """One a token."""
        return self.config.side**2

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
        """Draws N tokens in N sequential steps: a LongTensor (B, side, side).

        Args:
            labels: (B,) in [0, num_classes].
            guidance: s of u + s (c - u), the same at every step; 1 is none.
            top_k, top_p: as in `varmini.model.filters.filter_logits`.
            seed: the same seed and batch give the same tokens.
            cached: keep keys and values; otherwise every step computes all positions anew.
        """
        c, cache = self.config, [[] for _ in self.blocks]  # of each block: keys and values so far

        def following(shown: Tensor, classes: Tensor) -> Tensor:
            return self.step(classes, shown, cache) if cached else self(classes, shown)[:, -1]

        tokens = draw_in_order(
            following, labels, self.steps(), c.num_classes,
            guidance=guidance, seed=seed, top_k=top_k, top_p=top_p,
        )  # fmt: skip
        return tokens.unflatten(1, (c.side, c.side))

    def step(self, labels: Tensor, tokens: Tensor, cache: list[list[Tensor]]) -> Tensor:
        """Logits (B, V) of the token after `tokens` (B, i), of which all but the last are cached.

        labels: (B,). cache: a list for each block, empty before the first token.
        """
        i = tokens.shape[1]
        x = self.token_embedding(tokens[:, -1:]) if i else self.class_embedding(labels)[:, None]
        for block, kept in zip(self.blocks, cache):
            x = block(x, self.cos[i : i + 1], self.sin[i : i + 1], None, kept)
        return self.head(self.norm(x))[:, 0].float()
