"""Open-MAGVIT2: LFQ whose token is split in two, so that a generator needs no softmax over 2^d.

Source: Luo et al. 2024, "Open-MAGVIT2: An Open-Source Project Toward Democratizing Auto-Regressive
Visual Generation" (arXiv:2409.04410), sections 3.1 and 3.2.

    token = (sum of the first d_1 bits, sum of the other d_2 bits),    2^(d_1 + d_2) codes

The paper splits 18 bits into 6 and 12. A generator adds up the embeddings of the parts at its input
and predicts one part after the other, the second given the first. The tokenizer itself is LFQ.
Left out: the adversary with LeCam regularisation, and the larger decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .lfq import LFQConfig, LFQuantizer, to_signs, to_tokens
from .tokenizer import GridTokenizer


@dataclass(frozen=True)
class OpenMAGVIT2Config(LFQConfig):
    """Shape of an `OpenMAGVIT2`."""

    first: int = 3
    """d_1, bits of the first part of a token."""


class FactorisedLFQuantizer(LFQuantizer):
    """`LFQuantizer` with two tokens a position.

    Args:
        bits: d_1 + d_2.
        first: d_1.
        options: as of `LFQuantizer`.
    """

    def __init__(self, bits: int, first: int, **options: float) -> None:
        super().__init__(bits, **options)
        self.split = first, bits - first
        self.vocab_sizes = tuple(2**bits for bits in self.split)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, d) -> signs (N, d), tokens (N, 2), commitment and entropy terms."""
        q, _, loss = super().quantize(x)
        parts = (x > 0).split(self.split, dim=1)
        return q, torch.stack([to_tokens(part) for part in parts], dim=1), loss

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (..., 2) -> codes (..., d) of -1 and +1."""
        parts = zip(tokens.unbind(-1), self.split)
        return torch.cat([to_signs(part, bits) for part, bits in parts], dim=-1)


class OpenMAGVIT2(GridTokenizer):
    """VAR's encoder and decoder around it: (B, side, side, 2) tokens an image."""

    config_class = OpenMAGVIT2Config
    kind = "open-magvit2"

    def __init__(self, config: OpenMAGVIT2Config) -> None:
        c = config
        quantizer = FactorisedLFQuantizer(
            c.bits, c.first, beta=c.beta, entropy=c.entropy, temperature=c.temperature
        )
        super().__init__(config, quantizer, c.bits)
