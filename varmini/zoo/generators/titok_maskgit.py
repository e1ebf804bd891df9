"""MaskGIT over TiTok's tokens: a short row without a grid is filled in.

Source: Yu et al. 2024, "An Image is Worth 32 Tokens for Reconstruction and Generation"
(arXiv:2406.07550), section 3.3: MaskGIT's transformer over K tokens.

    positions masked in training: ceil(2/pi arccos(r) K),    r uniform in [0, 1)

The released code masks by arccos where MaskGIT masks by cos: the mean share is 2/pi in both, but
few or nearly all tokens are masked less often. Left out of that code: a weight of 0.1 on tokens
that are not masked, temperatures that fall over the rounds, and guidance that grows; drawing is
MaskGIT's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .maskgit import MaskGIT, MaskGITConfig


@dataclass(frozen=True)
class TiTokMaskGITConfig(MaskGITConfig):
    """Shape of a `TiTokMaskGIT`; `side` is not used."""

    latents: int = 16
    """K, tokens an image."""
    vocab_size: int = 512
    """Codes for them."""

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an image's tokens."""
        return (self.latents,)


class TiTokMaskGIT(MaskGIT):
    """A `MaskGIT` of tokens (B, K)."""

    config_class = TiTokMaskGITConfig
    kind = "titok-maskgit"

    @staticmethod
    def share(r: Tensor) -> Tensor:
        """2/pi arccos(r), r uniform in [0, 1)."""
        return torch.arccos(r) / (math.pi / 2)
