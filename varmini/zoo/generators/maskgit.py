"""MaskGIT: a bidirectional transformer fills in masked tokens, many at once, in a few rounds.

Source: Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer" (arXiv:2202.04200): a BERT
(post-norm, tied output), cosine schedule, confidence with annealed Gumbel noise.

    L = -mean over masked i of log p(x_i | class, visible),    ceil(cos(pi r / 2) N) masked, r ~ U
    round t of T:  draw all masked; the floor(N cos(pi t / 2T)) least confident are masked again

Added: label dropout and guidance, so that all methods have them. Left out: dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts import SelfAttention, guided
from .generator import Generator


@dataclass(frozen=True)
class MaskGITConfig:
    """Shape of a `MaskGIT`: about 12 depth width^2 parameters."""

    depth: int = 6
    """Transformer blocks."""
    width: int = 128
    """Channels of the residual stream."""
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
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all codes."""

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an image's tokens."""
        return (self.side, self.side)

    @property
    def num_tokens(self) -> int:
        """N, tokens an image."""
        return math.prod(self.token_shape)


class Block(nn.Module):
    """Post-norm, as in BERT: x <- LN(x + Attn(x));  x <- LN(x + FFN(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, l, w) -> the same; or (n, w), n rows of the B l alone, though these see all."""
        x = x + self.attention(x)
        x = self.norm1(x if rows is None else x.flatten(0, 1).index_select(0, rows))
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


def hidden_after(round_: int, rounds: int, tokens: int, hidden: int) -> int:
    """Tokens still masked after round t = 1..T: floor(N cos(pi t / 2T)), at least one fewer.

    At least one token is revealed a round, and at least one is left before the last.
    """
    if round_ == rounds:
        return 0
    return max(1, min(hidden - 1, math.floor(tokens * math.cos(math.pi * round_ / rounds / 2))))


class MaskGIT(Generator):
    """Masked token modelling: predicts all masked tokens of a map from the visible ones.

    Ids of the one embedding table: V codes, then num_classes + 1 classes, then [MASK].
    """

    config_class = MaskGITConfig
    kind = "maskgit"
    by_rows = ("",)
    no_decay = ("embedding", "position")

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config, w = config, config.width
        self.mask_id = config.vocab_size + config.num_classes + 1
        self.embedding = nn.Embedding(self.mask_id + 1, w)
        self.position = nn.Parameter(torch.empty(1, 1 + config.num_tokens, w))
        self.norm_in = nn.LayerNorm(w)
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.depth))
        self.fc, self.norm_out = nn.Linear(w, w), nn.LayerNorm(w)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Logits of every position, masked or not.

        Args:
            labels: (B,) in [0, num_classes].
            tokens: (B, N) codes, or `mask_id` where masked. Gives (B, N, V) float32.
        """
        ids = torch.cat([labels[:, None] + self.config.vocab_size, tokens], dim=1)
        x = self.norm_in(self.embedding(ids) + self.position)
        for block in self.blocks:
            x = block(x)
        x = self.norm_out(F.gelu(self.fc(x[:, 1:])))
        # The output layer is the embedding of the codes itself.
        return F.linear(x, self.embedding.weight[: self.config.vocab_size], self.bias).float()

    @staticmethod
    def share(r: Tensor) -> Tensor:
        """gamma(r) = cos(pi r / 2): the share of tokens masked in training, r uniform in [0, 1)."""
        return torch.cos(math.pi / 2 * r)

    def hide(self, count: int) -> Tensor:
        """(count, N) bool: ceil(gamma(r) N) random positions of each image, r uniform."""
        device, n = self.position.device, self.config.num_tokens
        r = torch.rand(count, 1, device=device)
        number = torch.ceil(self.share(r) * n)
        order = torch.rand(count, n, device=device).argsort(1).argsort(1)
        return order < number

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the masked tokens, with label smoothing in training.

        tokens: (B, side, side); labels: (B,) in [0, num_classes).
        """
        c, flat = self.config, tokens.flatten(1)
        labels = self.shown(labels)
        hidden = self.hide(len(flat))
        logits = self(labels, flat.masked_fill(hidden, self.mask_id))
        smoothing = c.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits[hidden], flat[hidden], label_smoothing=smoothing)

    def steps(self, *, rounds: int = 8, **options: object) -> int:
        """The rounds."""
        return rounds

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        rounds: int = 8,
        guidance: float = 1.0,
        temperature: float = 4.5,
        seed: int = 0,
    ) -> Tensor:
        """Fills maps (B, side, side) in `rounds` sequential steps, most confident guesses first.

        confidence = log p(id) + temperature (1 - t / T) Gumbel; the noise is on the confidence, not
        on the ids, and gone in the last round.

        Args:
            labels: (B,) in [0, num_classes].
            rounds: T, from 1 to N.
            guidance: s of u + s (c - u); 1 is none.
            temperature: strength of the noise in the first round.
            seed: the same seed and batch give the same tokens.
        """
        c, generator = self.config, torch.Generator().manual_seed(seed)
        if rounds < 1:
            raise ValueError(f"rounds is {rounds}, expected 1 to {c.num_tokens}")

        def gumbel(*shape: int) -> Tensor:
            u = torch.rand(shape, generator=generator).clamp(min=1e-20)
            return -(-u.log()).clamp(min=1e-20).log().to(labels.device)

        left = c.num_tokens
        tokens = labels.new_full((len(labels), left), self.mask_id)
        for t in range(1, rounds + 1):
            logits = guided(lambda x, y: self(y, x), tokens, labels, c.num_classes, guidance)
            logp = logits.log_softmax(-1)
            drawn = (logp + gumbel(*logp.shape)).argmax(-1)  # Gumbel-max: a sample of softmax
            hidden = tokens == self.mask_id
            tokens = torch.where(hidden, drawn, tokens)
            confidence = logp.gather(2, tokens[..., None])[..., 0]
            confidence = confidence + temperature * (1 - t / rounds) * gumbel(*tokens.shape)
            confidence = confidence.masked_fill(~hidden, float("inf"))
            left = hidden_after(t, rounds, c.num_tokens, left)
            if left:
                least = confidence.topk(left, dim=1, largest=False).indices
                tokens = tokens.scatter(1, least, self.mask_id)
        return tokens.unflatten(1, c.token_shape)
