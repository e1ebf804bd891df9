"""RQ-Transformer: one transformer walks over positions, a small one over the codes of each.

Source: Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization"
(arXiv:2203.01941), section 3.2, equations 9 to 13. A position t holds codes k_{t,1}, ..., k_{t,D}.

    h_t   = Spatial(class, u_2, ..., u_t)_t          u_t = W sum_d e(k_{t-1,d})
    p_td  = softmax(Depth(v_t1, ..., v_td)_d)        v_t1 = h_t,   v_td = W' sum_{i<d} e(k_{t,i})
    L = -1/(N D) sum_{t,d} log p_td(k_{t,d})

e(k) are the quantizer's own codes, frozen. N D codes cost N steps of the large transformer, of a
sequence of N, and N D of the small one, of a sequence of D. At D = 1 this is raster AR. Left out:
soft targets and codes sampled from them; dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.filters import draw, filter_logits
from ..parts import both, combine, with_null
from .causal import Cache, CausalTransformer, initialise
from .generator import Generator, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class RQTransformerConfig(NetworkConfig):
    """Shape of an `RQTransformer`: about 12 (depth + head_depth) width^2 parameters."""

    depth: int = 5
    """Blocks of the spatial transformer."""
    head_depth: int = 1
    """Blocks of the depth transformer."""
    side: int = 4
    """Side of the token map."""
    code_depth: int = 4
    """D, codes a position."""
    vocab_size: int = 512
    """V, codes in the codebook."""
    code_channels: int = 16
    """Length of a code."""


class RQTransformer(Generator):
    """Before training, copy the tokenizer's codebook (V, C) into `codebook`."""

    config_class = RQTransformerConfig
    kind = "rq-transformer"
    by_rows = ("",)
    no_decay = ("class_embedding", "position")

    def __init__(self, config: RQTransformerConfig) -> None:
        super().__init__()
        self.config, c, w = config, config, config.width
        self.class_embedding = nn.Embedding(c.num_classes + 1, w)
        self.word, self.depth_word = nn.Linear(c.code_channels, w), nn.Linear(c.code_channels, w)
        self.spatial = CausalTransformer(c.side**2, c.depth, w, c.heads)
        self.depth = CausalTransformer(c.code_depth, c.head_depth, w, c.heads)
        self.head = nn.Linear(w, c.vocab_size, bias=False)
        initialise(self)
        self.register_buffer("codebook", torch.randn(c.vocab_size, c.code_channels))

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: labels (B,), all tokens (B, N, D) -> logits of the same (B, N, D, V)."""
        sums = self.codebook[tokens].cumsum(2)  # (B, N, D, C), anew at each position
        start = self.class_embedding(labels)[:, None]
        h = self.spatial(torch.cat([start, self.word(sums[:, :-1, -1])], dim=1))  # (B, N, w)
        v = torch.cat([h[:, :, None], self.depth_word(sums[:, :, :-1])], dim=2)  # (B, N, D, w)
        return self.head(self.depth(v.flatten(0, 1))).float().unflatten(0, tokens.shape[:2])

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of all codes: tokens (B, side, side, D), labels (B,)."""
        flat = tokens.flatten(1, 2)
        return F.cross_entropy(self(self.shown(labels), flat).flatten(0, 2), flat.flatten())

    def steps(self, **options: object) -> int:
        """N of the large transformer, and N D of the small one: those of the small one."""
        return self.config.side**2 * self.config.code_depth

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        guidance: float = 1.0,
        seed: int = 0,
        top_k: int = 0,
        top_p: float = 0.0,
        cached: bool = True,
    ) -> Tensor:
        """Draws code by code: a LongTensor (B, side, side, D).

        Args:
            labels, guidance, seed: as of `Generator.generate`.
            top_k, top_p: as in `varmini.model.filters.filter_logits`.
            cached: keep keys and values of the spatial transformer.
        """
        c, generator = self.config, torch.Generator().manual_seed(seed)
        noise = torch.rand(len(labels), self.steps(), generator=generator).to(labels.device)
        noise = noise.unflatten(1, (-1, c.code_depth))
        cache = self.spatial.new_cache() if cached else None
        u = self.class_embedding(with_null(labels, c.num_classes, guidance))[:, None]
        tokens = []
        for t in range(c.side**2):
            h = self.spatial(u[:, -1:], cache, t) if cached else self.spatial(u)
            tokens.append(self.codes(h[:, -1], noise[:, t], guidance, top_k, top_p))
            total = self.codebook[tokens[-1]].sum(1)
            u = torch.cat([u, both(self.word(total), guidance)[:, None]], dim=1)
        return torch.stack(tokens, dim=1).unflatten(1, (c.side, c.side))

    def codes(self, h: Tensor, noise: Tensor, guidance: float, top_k: int, top_p: float) -> Tensor:
        """The inner loop: draws the D codes of a position from its h, (B, w) or (2 B, w).

        noise: (B, D), uniform in [0, 1). Gives (B, D).
        """
        cache: Cache = self.depth.new_cache()
        v, total, tokens = h, 0.0, []
        for d in range(self.config.code_depth):
            logits = self.head(self.depth(v[:, None], cache, d))[:, 0].float()
            logits = filter_logits(combine(logits, guidance), top_k, top_p)
            tokens.append(draw(logits[:, None], noise[:, d : d + 1])[:, 0])
            total = total + self.codebook[tokens[-1]]
            v = both(self.depth_word(total), guidance)
        return torch.stack(tokens, dim=1)
