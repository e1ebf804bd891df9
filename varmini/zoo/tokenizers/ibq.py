"""IBQ: index backpropagation, so that every code learns at every step.

Source: Shi et al. 2024, "Scalable Image Tokenization with Index Backpropagation Quantization"
(arXiv:2412.02692), section 3.2, equations 4 to 8, and the released code.

    l = z C^T,    p = softmax(l),    k = argmax l,    Ind = onehot(k) - sg(p) + p,    z_q = Ind C
    L = |z_q - z|^2 + |sg(c_k) - z|^2 + beta |c_k - sg(z)|^2 + w (E[H(p_T)] - H(E[p_T]))

The value of z_q is the chosen code; its gradient reaches all codes and, through p, the features, so
the usual z + sg(q - z) must not be put on top. p_T = softmax(l / T) with T = 0.01, for the entropy
terms of LFQ. With p at temperature 0 only the chosen codes learn, as in VQ. beta weighs the term of
the codebook, as in the released code. Changed: the codes start normal, where that has a uniform
+-1/V. Left out: the adversary with LeCam regularisation, and averages over processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .quantizer import CodebookQuantizer
from .tokenizer import CodebookConfig, GridTokenizer


@dataclass(frozen=True)
class IBQConfig(CodebookConfig):
    """Shape of an `IBQ` tokenizer."""

    entropy: float = 0.05
    """w, weight of the entropy terms."""
    entropy_temperature: float = 0.01
    """T, of the entropy terms."""


class IBQuantizer(CodebookQuantizer):
    """The code with the largest inner product, chosen with a gradient for all codes.

    Args:
        vocab_size, channels, beta, entropy, entropy_temperature: as in `IBQConfig`.
        temperature: of p; the paper's is 1.
    """

    def __init__(
        self,
        vocab_size: int,
        channels: int,
        *,
        beta: float = 0.25,
        entropy: float = 0.05,
        entropy_temperature: float = 0.01,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(vocab_size, channels, beta=beta)
        self.entropy, self.entropy_temperature = entropy, entropy_temperature
        self.temperature = temperature

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> codes (N, C), tokens (N,), loss."""
        logits = x @ self.codebook.T  # (N, V)
        p, tokens = (logits / self.temperature).softmax(1), logits.argmax(1)
        onehot = F.one_hot(tokens, len(self.codebook)).to(p.dtype)
        z_q = (onehot - p.detach() + p) @ self.codebook
        chosen = self.codebook[tokens]
        loss = (
            F.mse_loss(z_q, x)
            + F.mse_loss(chosen.detach(), x)
            + self.beta * F.mse_loss(chosen, x.detach())
            + self.entropy * self.entropy_terms(logits)
        )
        return z_q, tokens, loss

    def start(self, z: Tensor) -> None:
        """Nothing: of codes placed on vectors, the longest would win every inner product."""

    def entropy_terms(self, logits: Tensor) -> Tensor:
        """E[H(p_T)] - H(E[p_T]) in nats, of logits (N, V)."""
        log_p = (logits / self.entropy_temperature).log_softmax(1)
        own = -(log_p.exp() * log_p).sum(1).mean()
        # Keeps the gradient of p log p finite at p = 0.
        return own - torch.special.entr(log_p.exp().mean(0).clamp(min=1e-30)).sum()


class IBQ(GridTokenizer):
    """VAR's encoder and decoder around an `IBQuantizer`: (B, side, side) tokens an image."""

    config_class = IBQConfig
    kind = "ibq"

    def __init__(self, config: IBQConfig) -> None:
        quantizer = IBQuantizer(
            config.vocab_size,
            config.code_channels,
            beta=config.beta,
            entropy=config.entropy,
            entropy_temperature=config.entropy_temperature,
        )
        super().__init__(config, quantizer, config.code_channels)
