"""VQGAN: a VQ-VAE whose codebook learns by gradient, against a patch discriminator.

Source: Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis"
(arXiv:2012.09841), equations 4 to 7.

    L_VQ = |sg(z) - e_k|^2 + beta |z - sg(e_k)|^2
    L = L_rec + L_VQ + w lambda L_G,    L_G = -mean D(x^)
    lambda = |grad L_rec| / (|grad L_G| + 1e-4) at the decoder's last layer, at most 1e4
    L_D = 1/2 mean(relu(1 - D(x)) + relu(1 + D(x^)))

The discriminator, lambda and the hinge loss are those that VAR's tokenizer is trained with.
Changed: the codes start normal, then on a first batch's vectors, because the official uniform
+-1/V lets few codes take all; beta weighs the commitment term, where the official code's first
version weighed the codebook's; group normalisation in the discriminator. Left out: the late start
(w = 0 before `disc_start`), the GPT over the tokens (`generators.raster_ar`), and R1 or LeCam
regularisation of later systems.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ...training.losses import PatchDiscriminator, adaptive_weight, hinge_loss
from .quantizer import CodebookQuantizer, nearest, straight_through
from .tokenizer import CodebookConfig, GridTokenizer


@dataclass(frozen=True)
class VQGANConfig(CodebookConfig):
    """Shape of a `VQGAN`."""

    adversarial: float = 0.8
    """w, weight of the adversary."""


class VectorQuantizer(CodebookQuantizer):
    """Nearest neighbour in a codebook that learns by gradient: VAR's quantizer with one scale."""

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (N, C) -> codes (N, C), tokens (N,), codebook and commitment loss."""
        tokens = nearest(x.detach(), self.codebook.detach())
        chosen = self.codebook[tokens]
        loss = F.mse_loss(chosen, x.detach()) + self.beta * F.mse_loss(x, chosen.detach())
        return straight_through(x, chosen), tokens, loss


class PatchAdversary(nn.Module):
    """The discriminator and the two losses it takes part in; it needs an optimizer of its own.

    Args:
        image_channels: of the images.
        weight: w.
    """

    def __init__(self, image_channels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.network = PatchDiscriminator(image_channels)

    def generator_loss(self, reconstruction: Tensor, drawn: Tensor, last: Tensor) -> Tensor:
        """w lambda L_G, to be added to the tokenizer's loss.

        Args:
            reconstruction: L_rec, with a gradient.
            drawn: (B, C, H, W) reconstructions, with a gradient.
            last: weight of the decoder's last layer.
        """
        self.requires_grad_(False)  # of the discriminator's weights, none is due here
        fooled = -self.network(drawn).mean()
        self.requires_grad_(True)
        return self.weight * adaptive_weight(reconstruction, fooled, last) * fooled

    def discriminator_loss(self, images: Tensor, drawn: Tensor) -> Tensor:
        """L_D on real and on drawn images (B, C, H, W); no gradient goes back to `drawn`."""
        return hinge_loss(self.network(images), self.network(drawn.detach()))


class VQGAN(GridTokenizer):
    """VAR's encoder and decoder around a `VectorQuantizer`: (B, side, side) tokens an image."""

    config_class = VQGANConfig
    kind = "vqgan"
    by_rows = ("encoder",)  # `adaptive_weight` asks the decoder for gradients more than once

    def __init__(self, config: VQGANConfig) -> None:
        quantizer = VectorQuantizer(config.vocab_size, config.code_channels, beta=config.beta)
        super().__init__(config, quantizer, config.code_channels)

    def adversary(self) -> PatchAdversary | None:
        """A new adversary, or None if its weight is 0."""
        c = self.config
        return PatchAdversary(c.image_channels, c.adversarial) if c.adversarial else None
