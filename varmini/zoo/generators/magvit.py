"""MAGVIT: MaskGIT over the tokens of a video, with those of given frames left unmasked.

Sources: Yu et al. 2023, "MAGVIT: Masked Generative Video Transformer" (arXiv:2212.05199), sections
3.2 and 3.3: one masked model learns many tasks by what is masked. Yu et al. 2023, "Language Model
Beats Diffusion" (MAGVIT-v2, arXiv:2310.05737), section 3: a causal tokenizer, so that the tokens of
the first frames are the same whatever follows; tokens of d bits in two parts.

    a token of d bits is G numbers below 2^(d/G): inputs sum G embeddings, outputs are G softmaxes
    L = -mean over masked i, parts g of log p(x_ig | class, visible)
    task of a training video: nothing known, the first frame known, or the first clip known too;
    of the tokens that are not known, ceil(cos(pi r / 2) N) are masked, r ~ U
    drawing: MaskGIT's rounds over the tokens that are not known

Changed: transformer as in `maskgit.py`; both parts of a token are revealed together, by the sum of
their log p. An embedding is a row of a table and a vector for each bit, so that numbers with common
bits are alike from the start. No label smoothing: with 0.1 of it a tenth of the parts drawn is any
number at all. Left out: the other tasks, and COMMIT's condition tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts import guided
from ..tokenizers.lfq import to_signs
from .generator import Generator, NetworkConfig
from .maskgit import Block, MaskGIT, hidden_after


@dataclass(frozen=True, kw_only=True)
class MAGVITConfig(NetworkConfig):
    """Shape of a `MAGVIT`: about 12 depth width^2 parameters."""

    depth: int = 4
    """Transformer blocks."""
    side: int = 4
    """Side of a latent frame's token map."""
    frames: int = 7
    """Latent frames."""
    bits: int = 18
    """d, bits of a token; the tokenizer's."""
    groups: int = 2
    """G, parts of a token, a divisor of d."""
    tasks: tuple[int, ...] = (0, 1, 3)
    """Latent frames that are known, one of these a training video."""

    @property
    def num_tokens(self) -> int:
        """N, tokens a video."""
        return self.frames * self.side**2


class MAGVIT(Generator):
    """Masked token modelling of videos; each part's table holds 2^(d/G) rows, then [MASK]."""

    config_class = MAGVITConfig
    kind = "magvit"
    no_decay = ("rows", "bits", "classes", "space", "time")
    by_rows = ("surprise",)

    def __init__(self, config: MAGVITConfig) -> None:
        super().__init__()
        self.config, c, w = config, config, config.width
        if c.groups < 1 or c.bits % c.groups:
            raise ValueError(f"groups is {c.groups}, expected a divisor of bits {c.bits}")
        if max(c.tasks) >= c.frames:
            raise ValueError(f"tasks are {c.tasks}, expected fewer known than {c.frames} frames")
        self.part = c.bits // c.groups
        self.rows = nn.Parameter(torch.empty(c.groups, 2**self.part + 1, w))
        self.bits = nn.Parameter(torch.empty(c.groups, self.part, w))
        signs = to_signs(torch.arange(2**self.part), self.part)
        self.register_buffer("signs", F.pad(signs, (0, 0, 0, 1)), persistent=False)
        self.classes = nn.Embedding(c.num_classes + 1, w)
        self.space = nn.Parameter(torch.empty(1, 1, c.side**2, w))
        self.time = nn.Parameter(torch.empty(1, c.frames, 1, w))
        self.norm_in = nn.LayerNorm(w)
        self.blocks = nn.ModuleList(Block(w, c.heads) for _ in range(c.depth))
        self.fc, self.norm_out = nn.Linear(w, w), nn.LayerNorm(w)
        self.bias = nn.Parameter(torch.zeros(c.groups, 2**self.part))
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.trunc_normal_(p, std=0.02)

    @property
    def tables(self) -> Tensor:
        """Embeddings of all numbers and of [MASK]: (G, 2^(d/G) + 1, w)."""
        return self.rows + self.signs @ self.bits

    def split(self, tokens: Tensor) -> Tensor:
        """Tokens (..., of d bits) -> their parts (..., G)."""
        shifts = torch.arange(0, self.config.bits, self.part, device=tokens.device)
        return tokens[..., None] >> shifts & 2**self.part - 1

    def join(self, parts: Tensor) -> Tensor:
        """Parts (..., G) -> tokens (...)."""
        shifts = torch.arange(0, self.config.bits, self.part, device=parts.device)
        return (parts << shifts).sum(-1)

    def states(self, labels: Tensor, parts: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the output layers read: (B, 1 + N, w), or (n, w) as in `Block`."""
        x = sum(table[parts[..., g]] for g, table in enumerate(self.tables))  # (B, N, w)
        x = x + (self.time + self.space).flatten(1, 2)
        x = self.norm_in(torch.cat([self.classes(labels)[:, None], x], dim=1))
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm_out(F.gelu(self.fc(self.blocks[-1](x, rows))))

    def logits(self, x: Tensor) -> Tensor:
        """States (..., width) -> (..., G, 2^(d/G)); the output layers are the tables themselves."""
        found = F.linear(x, self.tables[:, :-1].flatten(0, 1)).float()
        return found.unflatten(-1, self.bias.shape) + self.bias

    def forward(self, labels: Tensor, parts: Tensor) -> Tensor:
        """Logits of every position, masked or not: (B, N, G, 2^(d/G)).

        labels: (B,) in [0, num_classes]; parts: (B, N, G) in [0, 2^(d/G)], the last is [MASK].
        """
        return self.logits(self.states(labels, parts)[:, 1:])

    def surprise(self, labels: Tensor, parts: Tensor, hidden: Tensor) -> Tensor:
        """Cross-entropies of the masked tokens' parts, summed over each video: (B,).

        labels, parts: as in `forward`, nothing masked; hidden: (B, N) bool, what is masked.
        """
        rows = F.pad(hidden, (1, 0)).flatten().nonzero()[:, 0]  # the class token is never hidden
        x = self.states(labels, parts.masked_fill(hidden[..., None], 2**self.part), rows)
        logits = self.logits(x).flatten(0, 1)
        each = F.cross_entropy(logits, parts[hidden].flatten(), reduction="none")
        video = (rows // (hidden.shape[1] + 1)).repeat_interleave(parts.shape[2])
        return each.new_zeros(len(parts)).index_add(0, video, each)

    def hide(self, known: Tensor) -> Tensor:
        """Random masks of videos of which `known` (B,) tokens are known: (B, N) bool."""
        n, where = self.config.num_tokens, known.device
        free = torch.arange(n, device=where) >= known[:, None]
        number = MaskGIT.share(torch.rand(len(known), 1, device=where)) * (n - known)[:, None]
        order = torch.rand(len(known), n, device=where).masked_fill(~free, 2.0)
        return order.argsort(1).argsort(1) < number.ceil()

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy a part of the masked tokens (B, T, side, side)."""
        c, parts, labels = self.config, self.split(tokens.flatten(1)), self.shown(labels)
        tasks = torch.tensor(c.tasks, device=tokens.device)
        known = tasks[torch.randint(len(tasks), (len(parts),), device=tokens.device)] * c.side**2
        hidden = self.hide(known)
        return self.surprise(labels, parts, hidden).sum() / (c.groups * hidden.sum())

    def steps(self, *, rounds: int = 12, **options: object) -> int:
        """The rounds."""
        return rounds

    @torch.no_grad()
    def generate(
        self, labels: Tensor, *, guidance: float = 1.0, seed: int = 0, rounds: int = 12,
        temperature: float = 4.5, tau: float = 1.0, known: Sequence[Tensor] = (),
    ) -> list[Tensor]:  # fmt: skip
        """Fills in a video in `rounds` steps, most confident guesses first: [(B, T, side, side)].

        Args:
            labels, guidance, seed: as of `Generator.generate`.
            rounds: from 1 to the number of tokens to be drawn.
            temperature, tau: of confidence, in the first round, and of the tokens drawn.
            known: one map (B, t, side, side) of the first latent frames, which stay as they are.

        Raises:
            ValueError: on rounds out of range, or known frames that leave nothing to draw.
        """
        c, generator = self.config, torch.Generator().manual_seed(seed)
        given = known[0].shape[1] if len(known) else 0
        left = free = c.num_tokens - given * c.side**2
        if len(known) > 1 or not 1 <= rounds <= free:
            raise ValueError(f"rounds is {rounds} and known holds {len(known)} maps of {given} "
                             f"latent frames, expected at most one map of fewer than {c.frames}, "
                             f"and 1 to {max(free, 1)} rounds")  # fmt: skip

        def gumbel(*shape: int) -> Tensor:
            u = torch.rand(shape, generator=generator).clamp(min=1e-20)
            return -(-u.log()).clamp(min=1e-20).log().to(labels.device)

        parts = labels.new_full((len(labels), c.num_tokens, c.groups), 2**self.part)
        if given:
            parts[:, : given * c.side**2] = self.split(known[0].flatten(1))
        for t in range(1, rounds + 1):
            logits = guided(lambda x, y: self(y, x), parts, labels, c.num_classes, guidance)
            logp = (logits / tau).log_softmax(-1)
            drawn = (logp + gumbel(*logp.shape)).argmax(-1)  # Gumbel-max: a sample of softmax
            hidden = parts[..., 0] == 2**self.part
            parts = torch.where(hidden[..., None], drawn, parts)
            confidence = logp.gather(3, parts[..., None])[..., 0].sum(-1)
            confidence = confidence + temperature * (1 - t / rounds) * gumbel(*hidden.shape)
            left = hidden_after(t, rounds, free, left)
            if left:
                least = confidence.masked_fill(~hidden, float("inf")).topk(left, 1, largest=False)
                parts.scatter_(1, least.indices[..., None].expand(-1, -1, c.groups), 2**self.part)
        return [self.join(parts).unflatten(1, (c.frames, c.side, c.side))]
