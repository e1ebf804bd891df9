"""The continuous autoencoder under DiT: VAR's own encoder and decoder, lightly regularised by KL.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"
(arXiv:2112.10752), appendix G.

    (mean, log std^2) = E(x),    z = mean + std n with n ~ N(0, 1),    x^ = D(z)
    L = distance(x^, x) + kl 1/2 sum(mean^2 + std^2 - 1 - log std^2)

Left out: the adversary, and the 1x1 convolutions around the latent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...model.autoencoder import Decoder, Encoder
from ...model.tokenizer import Reconstruction, TokenizerConfig
from ...runtime.pretrained import Pretrained


@dataclass(frozen=True)
class KLConfig:
    """Shape of a `KLAutoencoder`; the network's fields mean what they mean in `TokenizerConfig`."""

    side: int = 8
    """Side of the latent map."""
    latent_channels: int = 4
    """Channels of the latent."""
    image_channels: int = 3
    """3 for colour, 1 for grey."""
    width: int = 64
    """Channels of the first level."""
    norm_groups: int = 32
    """Groups of the group normalisation."""
    multipliers: tuple[int, ...] = (1, 2)
    """Channels of each level in units of `width`."""
    num_res_blocks: int = 1
    """Residual blocks a level in the encoder."""
    attention: bool = True
    """Self-attention at the smallest level."""
    patch: int = 2
    """Pixels a side that are folded into channels first."""
    kl: float = 1e-6
    """Weight of the KL term, summed over the latent."""

    def network(self) -> TokenizerConfig:
        """The tokenizer whose encoder and decoder these are."""
        names = ("image_channels", "width", "norm_groups", "multipliers", "num_res_blocks",
                 "attention", "patch")  # fmt: skip
        return TokenizerConfig(
            sizes=(self.side,),
            code_channels=self.latent_channels,
            **{name: getattr(self, name) for name in names},
        )


class KLAutoencoder(nn.Module, Pretrained):
    """Images (B, C, H, W) in [-1, 1] to Gaussian latents N(mean, std^2) and back."""

    config_class = KLConfig
    kind = "kl"
    by_rows = ("encoder", "decoder")

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        network = config.network()
        self.encoder = Encoder(replace(network, code_channels=2 * config.latent_channels))
        self.decoder = Decoder(network)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents, each (B, latent_channels, side, side)."""
        mean, log_variance = self.encoder(images).float().chunk(2, dim=1)
        return mean, (log_variance.clamp(-30, 20) / 2).exp()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The mean latent of images, (B, latent_channels, side, side)."""
        return self.moments(images)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, latent_channels, side, side) to images (B, C, H, W), clamped to [-1, 1]."""
        return self.decoder(latents).float().clamp(-1, 1)

    def forward(self, images: Tensor) -> Reconstruction:
        """The training pass: images (B, C, H, W) in [-1, 1] -> images of a random latent.

        `loss` is kl 1/2 sum(mean^2 + std^2 - 1 - log std^2), a mean over images; `tokens` is the
        latent (B, latent_channels, side, side), and nothing is counted.
        """
        mean, std = self.moments(images)
        z = mean + std * torch.randn_like(std)
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1)
        loss = self.config.kl * divergence.mean()
        return Reconstruction(self.decoder(z).float(), z, loss, z.new_zeros(0), mean)

    def start(self, images: Tensor) -> None:
        """There are no codes to place."""

    def before_step(self, share: float, shown: bool = True) -> None:
        """Nothing changes over the training."""

    def after_step(self, result: Reconstruction) -> None:
        """Nothing moves without a gradient."""

    def adversary(self) -> None:
        """There is none."""
