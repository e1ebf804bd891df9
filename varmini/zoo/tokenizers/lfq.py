"""LFQ, the tokenizer of MAGVIT-v2: no codebook, each channel's sign is a bit of the token.

Source: Yu et al. 2023, "Language Model Beats Diffusion - Tokenizer is Key to Visual Generation"
(arXiv:2310.05737), section 3.1, equations 2 to 5.

    q_i = sign(z_i),    token = sum_i 2^i [z_i > 0],    z_q = z + sg(q - z)
    L = beta |z - sg(q)|^2 + w (E[H(p(.|z))] - H(E[p(.|z)])),    p(c|z) ~ exp(2 <z, c> / T)

so every vector should be sure of its code, and all together use all codes. p factorises over bits,
p(bit i) = sigmoid(4 z_i / T): the first term is exactly the sum of the bits' entropies, and the
joint of the second is built up bit by bit, without the 2^d codes as vectors. It takes N x 2^d
numbers; of groups of bits the entropies add up to a bound from above (see `bsq`). Left out: the
causal 3D network for video, the adversary, the higher w of the first 2,000 steps, and averages over
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantizer import Quantizer, straight_through
from .tokenizer import GridConfig, GridTokenizer


@dataclass(frozen=True)
class LFQConfig(GridConfig):
    """Shape of an `LFQ` tokenizer."""

    bits: int = 9
    """d, bits of a token and channels of a code."""
    beta: float = 0.25
    """Weight of the commitment loss."""
    entropy: float = 0.1
    """w, weight of the entropy terms."""
    temperature: float = 0.01
    """T, of p; the smaller, the fewer vectors near a sign's change feel the entropy terms."""


def signs(x: Tensor) -> Tensor:
    """+1 where x > 0, otherwise -1 (torch.sign gives 0 at 0)."""
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def to_tokens(positive: Tensor) -> Tensor:
    """Bits (..., d), true or false, -> tokens (...): sum_i 2^i bit_i."""
    return (positive.long() << torch.arange(positive.shape[-1], device=positive.device)).sum(-1)


def to_signs(tokens: Tensor, bits: int) -> Tensor:
    """Tokens (...) -> their bits as -1 or +1 (..., d), float32."""
    return (tokens[..., None] >> torch.arange(bits, device=tokens.device) & 1).float() * 2 - 1


def entropies(logits: Tensor, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
    """E[H(p(.|z))] and H(E[p(.|z)]) in nats, for independent bits.

    Args:
        logits: (N, d), of each bit being 1.
        groups: sizes that add up to d: the second entropy is summed over such groups of bits, in
            which it is exact.
    """
    size = logits.abs()  # H of a bit: log(1 + e^-|l|) + |l| sigmoid(-|l|)
    own = (F.softplus(-size) + size * (-size).sigmoid()).sum(1).mean()
    together = logits.new_zeros(())
    for part in logits.split(list(groups), dim=1):
        joint = part.new_ones(len(part), 1)
        for bit in part.unbind(1):
            joint = joint[:, None] * torch.stack([-bit, bit], dim=1).sigmoid()[..., None]
            joint = joint.flatten(1)  # (N, 2^i): the new bit is the most significant
        # Far below what float32 adds up; keeps the gradient of p log p finite at p = 0.
        together = together + torch.special.entr(joint.mean(0).clamp(min=1e-30)).sum()
    return own, together


class LFQuantizer(Quantizer):
    """Signs as codes.

    Args:
        bits, beta, entropy, temperature: as in `LFQConfig`.
    """

    def __init__(
        self,
        bits: int,
        *,
        beta: float = 0.25,
        entropy: float = 0.1,
        temperature: float = 0.01,
    ) -> None:
        super().__init__(2**bits)
        self.bits, self.beta = bits, beta
        self.entropy, self.temperature = entropy, temperature

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, d) -> signs (N, d), tokens (N,), commitment and entropy terms."""
        q = signs(x.detach())
        own, together = entropies(4 * x / self.temperature, (self.bits,))
        loss = self.beta * F.mse_loss(x, q) + self.entropy * (own - together)
        return straight_through(x, q), to_tokens(q > 0), loss

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (...) -> codes (..., d) of -1 and +1."""
        return to_signs(tokens, self.bits)


class LFQ(GridTokenizer):
    """VAR's encoder and decoder around an `LFQuantizer`: (B, side, side) tokens an image."""

    config_class = LFQConfig
    kind = "lfq"

    def __init__(self, config: LFQConfig) -> None:
        quantizer = LFQuantizer(
            config.bits,
            beta=config.beta,
            entropy=config.entropy,
            temperature=config.temperature,
        )
        super().__init__(config, quantizer, config.bits)
