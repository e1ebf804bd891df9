"""BSQ: binary spherical quantization, signs on the unit sphere.

Source: Zhao et al. 2024, "Image and Video Tokenization with Binary Spherical Quantization"
(arXiv:2406.07548), section 4.1, equations 5 to 13.

    u = z / |z|,    q = sign(u) / sqrt(L),    z_q = (u + sg(sign(u) - u)) / sqrt(L)
    p(bit i) = sigmoid(4 t u_i / sqrt(L)),    loss = w/t (E[H(p(.|u))] - g H(E[p(.|u)]))

|u| = |q| = 1 and |u - q| < sqrt(2) for any z: nothing need tie the features to their codes, so the
commitment loss of LFQ goes. The second entropy is summed over bits, or small groups of them, and so
linear in L: there is no table of 2^L codes anywhere. 1/t is the released code's: without it the
gradient would grow with t. Changed: t is 100, as 1/T is in LFQ, where the released configurations
have 1; nothing is added inside the logarithms. Left out: the transformer as encoder and decoder,
the adversary, the higher w of the first 2,000 steps, and the paper's arithmetic coding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .lfq import entropies, signs, to_signs, to_tokens
from .quantizer import Quantizer, straight_through
from .tokenizer import GridConfig, GridTokenizer


@dataclass(frozen=True)
class BSQConfig(GridConfig):
    """Shape of a `BSQ` tokenizer."""

    bits: int = 9
    """L, bits of a token and channels of a code."""
    entropy: float = 0.1
    """w, weight of the entropy terms."""
    balance: float = 1.0
    """g, weight of the entropy of the whole batch among them."""
    sharpness: float = 100.0
    """t, the inverse temperature of p."""
    group: int = 1
    """Bits, a divisor of L, whose joint entropy the batch's is made of; 1 or 9 in the released
    configurations, 9 by default in their class."""


class BSQuantizer(Quantizer):
    """Signs of features, scaled to length 1. Arguments as in `BSQConfig`."""

    def __init__(
        self,
        bits: int,
        *,
        entropy: float = 0.1,
        balance: float = 1.0,
        sharpness: float = 100.0,
        group: int = 1,
    ) -> None:
        super().__init__(2**bits)
        self.bits, self.groups = bits, [group] * (bits // group)
        self.entropy, self.balance, self.sharpness = entropy, balance, sharpness

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, L) of any length -> unit codes (N, L), tokens (N,), entropy terms."""
        u, root = F.normalize(x, dim=1), self.bits**0.5
        q = signs(u.detach())
        own, together = entropies(4 * self.sharpness * u / root, self.groups)
        loss = self.entropy / self.sharpness * (own - self.balance * together)
        return straight_through(u, q) / root, to_tokens(q > 0), loss

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) -> codes (..., L) of length 1."""
        return to_signs(tokens, self.bits) / self.bits**0.5


class BSQ(GridTokenizer):
    """VAR's encoder and decoder around a `BSQuantizer`: (B, side, side) tokens an image."""

    config_class = BSQConfig
    kind = "bsq"

    def __init__(self, config: BSQConfig) -> None:
        quantizer = BSQuantizer(
            config.bits,
            entropy=config.entropy,
            balance=config.balance,
            sharpness=config.sharpness,
            group=config.group,
        )
        super().__init__(config, quantizer, config.bits)
