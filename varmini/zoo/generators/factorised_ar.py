"""Raster AR over factorised tokens: a position holds two small tokens, the second given the first.

Source: Luo et al. 2024, "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-Regressive
Visual Generation" (arXiv:2409.04410), section 3.2. A position t holds a_t and b_t.

    h_t = Llama(class, E_1 a_1 + E_2 b_1, ..., E_1 a_{t-1} + E_2 b_{t-1})_t
    p(a_t | ...) = softmax(W_1 Intra(h_t)_1)
    p(b_t | ..., a_t) = softmax(W_2 Intra(h_t, E_1 a_t)_2)

V_1 + V_2 output rows do the work of V_1 V_2. The body is `RasterAR` itself, the two inner positions
are a small causal transformer. Changed: the class is the first token, as in LlamaGen, instead of
modulating the blocks (AdaLN). Left out: guidance and temperature of their own for each part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.filters import draw, filter_logits
from ..parts import both, combine, with_null
from .causal import CausalTransformer, initialise
from .raster_ar import RasterAR, RasterARConfig


@dataclass(frozen=True)
class FactorisedARConfig(RasterARConfig):
    """Shape of a `FactorisedAR`; `vocab_size` is not used."""

    side: int = 4
    """Side of the token map."""
    vocab_sizes: tuple[int, int] = (8, 64)
    """V_1 and V_2."""
    intra_depth: int = 1
    """Blocks of the inner transformer; 3 in the paper."""


class SumEmbedding(nn.ModuleList):
    """E_1 a + E_2 b: tokens (..., 2) -> (..., w)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return sum(embedding(part) for embedding, part in zip(self, tokens.unbind(-1)))


class FactorisedAR(RasterAR):
    """A `RasterAR` that reads sums of two embeddings, and whose head is a small transformer."""

    config_class = FactorisedARConfig
    kind = "factorised-ar"
    by_rows = ("", "intra")
    no_decay = (*RasterAR.no_decay, "position")

    def __init__(self, config: FactorisedARConfig) -> None:
        super().__init__(config)
        c, w = config, config.width
        self.token_embedding = SumEmbedding(nn.Embedding(v, w) for v in c.vocab_sizes)
        self.head = nn.Identity()  # so that `RasterAR.forward` and `step` give h
        self.intra = CausalTransformer(2, c.intra_depth, w, c.heads)
        self.heads = nn.ModuleList(nn.Linear(w, v, bias=False) for v in c.vocab_sizes)
        for module in (self.token_embedding, self.intra, self.heads):
            initialise(module)

    def parts(self, h: Tensor, tokens: Tensor) -> list[Tensor]:
        """Logits of both parts, (n, V_1) and (n, V_2), of h (n, w) and the parts (n, 2).

        Those of the first do not depend on the tokens; those of the second on the first alone.
        """
        x = torch.stack([h, self.token_embedding[0](tokens[:, 0])], dim=1)  # (n, 2, w)
        x = self.intra(x)
        return [head(x[:, i]).float() for i, head in enumerate(self.heads)]

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """-1/N sum_t log p(a_t, b_t | ...): tokens (B, side, side, 2), labels (B,)."""
        flat = tokens.flatten(1, 2)
        h, pairs = self(self.shown(labels), flat[:, :-1]).flatten(0, 1), flat.flatten(0, 1)
        return sum(F.cross_entropy(x, y) for x, y in zip(self.parts(h, pairs), pairs.unbind(1)))

    def steps(self, **options: object) -> int:
        """Two a position, of which one goes through the body."""
        return 2 * self.config.side**2

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
        """Draws part by part: a LongTensor (B, side, side, 2). Arguments as of `RasterAR`."""
        c, generator = self.config, torch.Generator().manual_seed(seed)
        noise = torch.rand(len(labels), c.side**2, 2, generator=generator).to(labels.device)
        classes = with_null(labels, c.num_classes, guidance)
        cache, tokens = [[] for _ in self.blocks], labels.new_empty(len(labels), 0, 2)
        for t in range(c.side**2):
            shown = both(tokens, guidance)
            h = self.step(classes, shown, cache) if cached else self(classes, shown)[:, -1]
            pair = labels.new_zeros(len(labels), 2)
            for i in range(2):
                logits = combine(self.parts(h, both(pair, guidance))[i], guidance)
                logits = filter_logits(logits, top_k, top_p)
                pair[:, i] = draw(logits[:, None], noise[:, t, i, None])[:, 0]
            tokens = torch.cat([tokens, pair[:, None]], dim=1)
        return tokens.unflatten(1, (c.side, c.side))
