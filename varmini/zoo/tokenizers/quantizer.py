"""What the quantizers of the zoo share: features (B, C, h, w) to `Quantized`, tokens to codes.

In their docstrings |x|^2 in a loss is the mean over all entries (`F.mse_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Quantized:
    """What a quantizer returns; all weights are in `loss` already."""

    z_q: Tensor
    """(B, C, h, w): codes, with a gradient for the features."""
    tokens: Tensor
    """LongTensor (B, h, w), or (B, h, w, D) where a position holds D tokens (a list of K maps for
    multiscale-bsq)."""
    loss: Tensor
    """Scalar."""
    usage: Tensor
    """(D,) share of each vocabulary seen in this batch; D = 1 where a position holds one token."""


class Quantizer(nn.Module):
    """Quantizes each position by itself. A subclass gives `quantize` and `codes`.

    Args:
        vocab_sizes: codes to choose from, for each of the D tokens of a position.
    """

    def __init__(self, *vocab_sizes: int) -> None:
        super().__init__()
        self.vocab_sizes = vocab_sizes

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> codes (N, C) with a gradient, tokens (N,) or (N, D), loss."""
        raise NotImplementedError

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) or (..., D) -> their codes (..., C)."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes z (B, C, h, w) for training."""
        positions = len(z), *z.shape[2:]
        q, tokens, loss = self.quantize(rows(z))
        usage = [share_seen(t, v) for t, v in zip(tokens.view(len(q), -1).T, self.vocab_sizes)]
        return Quantized(
            q.view(*positions, -1).permute(0, 3, 1, 2),
            tokens.view(*positions, *tokens.shape[1:]),
            loss,
            torch.stack(usage),
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) or (B, h, w, D) -> codes (B, C, h, w)."""
        return self.codes(tokens).permute(0, 3, 1, 2)

    def start(self, z: Tensor) -> None:
        """Places the codes, given the features of a first batch."""

    def update(self, z: Tensor, tokens: Tensor) -> None:
        """Moves the codes after a step, without a gradient, given its features and tokens."""


class CodebookQuantizer(Quantizer):
    """A quantizer whose codes are V rows that move, at first those of a normal distribution.

    Args:
        vocab_size, channels, beta: as in `CodebookConfig`.
        depth: tokens a position, all of this codebook.
    """

    def __init__(
        self, vocab_size: int, channels: int, *, beta: float = 0.25, depth: int = 1
    ) -> None:
        super().__init__(*[vocab_size] * depth)
        self.beta = beta
        self.codebook = nn.Parameter(torch.randn(vocab_size, channels))

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) -> codes (..., C)."""
        return self.codebook[tokens]

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Places the codes on vectors of z (B, C, h, w)."""
        self.codebook.copy_(some_rows(rows(z), len(self.codebook)))


def rows(z: Tensor) -> Tensor:
    """(B, C, h, w) -> (B h w, C)."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """argmin_j |x - e_j|^2 = argmin_j |e_j|^2 - 2 <x, e_j>: (N, C), (V, C) -> (N,)."""
    return (codebook.square().sum(1) - 2 * x @ codebook.T).argmin(1)


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """x + sg(q - x): the value of q, the gradient of x."""
    return x + (q - x).detach()


def share_seen(tokens: Tensor, vocab_size: int) -> Tensor:
    """Share of the vocabulary that occurs among the tokens: scalar in [0, 1]."""
    seen = torch.zeros(vocab_size, device=tokens.device)
    return seen.index_fill_(0, tokens.flatten(), 1.0).mean()


def some_rows(x: Tensor, count: int) -> Tensor:
    """So many rows of x (N, C), drawn at random; each once, where there are enough."""
    order = torch.randperm(len(x), device=x.device)
    return x[order.repeat(-(-count // len(x)))[:count]]
