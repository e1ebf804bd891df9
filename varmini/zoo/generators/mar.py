"""MAR: masked autoregression over real-valued tokens, each drawn by a small diffusion model.

Source: Li et al. 2024, "Autoregressive Image Generation without Vector Quantization"
(arXiv:2406.11838), sections 3.2 to 3.4.

    z = Decoder(Encoder(class, visible tokens), mask tokens)              one z_i per position
    L = mean over masked i of E_{t, eps} |eps - eps_theta(x_{i,t} | t, z_i)|^2     (diffusion_head)

Each image has a random order of its positions: training masks the end of it, drawing reveals it
piece by piece. A cross-entropy needs codes; a squared error |x_i - f(z_i)|^2 would draw averages.
Left out: dropout, and the learned variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..parts import both, with_null
from ..tokenizers.vit_vqgan import transformer
from .diffusion_head import DiffusionHead
from .generator import Generator, NetworkConfig
from .maskgit import hidden_after


@dataclass(frozen=True, kw_only=True)
class MARConfig(NetworkConfig):
    """Shape of a `MAR`: about 24 depth width^2 + 5 head_depth head_width^2 parameters."""

    depth: int = 2
    """Blocks of the encoder, and of the decoder."""
    side: int = 8
    """Side of the latent map."""
    channels: int = 4
    """Channels of the latent."""
    buffer: int = 8
    """Class tokens in front of the encoder; they are never masked."""
    head_depth: int = 3
    """Blocks of the diffusion model."""
    head_width: int = 128
    """Channels of the diffusion model."""
    timesteps: int = 1000
    """T, noise levels."""
    noises: int = 4
    """Noise levels that a masked token is trained on at a step; they share one z."""


class MAR(Generator):
    """Before training, put the standard deviation of the latents into `latent_std`."""

    config_class = MARConfig
    kind = "mar"
    by_rows = ("encoder", "decoder", "head")
    no_decay = ("class_embedding", "position", "mask_token")

    def __init__(self, config: MARConfig) -> None:
        super().__init__()
        self.config, c, w, n = config, config, config.width, config.side**2
        self.class_embedding = nn.Embedding(c.num_classes + 1, w)
        self.word = nn.Linear(c.channels, w)
        self.mask_token = nn.Parameter(0.02 * torch.randn(w))
        self.encoder_position = nn.Parameter(0.02 * torch.randn(c.buffer + n, w))
        self.decoder_position = nn.Parameter(0.02 * torch.randn(c.buffer + n, w))
        self.head_position = nn.Parameter(0.02 * torch.randn(n, w))
        self.encoder = transformer(w, c.depth, c.heads)
        self.decoder = transformer(w, c.depth, c.heads)
        self.head = DiffusionHead(c.channels, w, c.head_depth, c.head_width, c.timesteps)
        nn.init.normal_(self.class_embedding.weight, std=0.02)
        self.register_buffer("latent_std", torch.ones(()))

    def forward(self, labels: Tensor, x: Tensor, order: Tensor, visible: int) -> Tensor:
        """z of every position (B, N, w), of which only those of masked tokens are of use.

        Args:
            labels: (B,) in [0, num_classes].
            x: (B, N, C) tokens; only those at order[:, :visible] are read.
            order: (B, N), a permutation of the positions of each image.
            visible: how many tokens are known.
        """
        c, known = self.config, order[:, :visible]
        front = self.class_embedding(labels)[:, None] + self.encoder_position[: c.buffer]
        words = self.word(take(x, known)) + self.encoder_position[c.buffer :][known]
        h = self.encoder(torch.cat([front, words], dim=1))
        front, words = h.split([c.buffer, visible], dim=1)
        masks = self.mask_token.to(h.dtype).expand(len(x), c.side**2, -1)
        h = torch.cat([front, put(masks, known, words)], dim=1) + self.decoder_position
        return self.decoder(h)[:, c.buffer :] + self.head_position

    def training_loss(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Diffusion loss of masked tokens: latents (B, C, side, side), labels (B,)."""
        c, n = self.config, self.config.side**2
        x = latents.float().flatten(2).transpose(1, 2) / self.latent_std
        # The share that is masked, one for the batch: normal (1, 0.25) cut to [0.7, 1].
        share = nn.init.trunc_normal_(torch.empty(()), 1.0, 0.25, 0.7, 1.0).item()
        visible = n - math.ceil(share * n)
        order = torch.rand(len(x), n, device=x.device).argsort(1)
        z, hidden = self(self.shown(labels), x, order, visible), order[:, visible:]
        x, z = take(x, hidden).flatten(0, 1), take(z, hidden).flatten(0, 1)
        return self.head.loss(x, z, c.noises)

    def steps(self, *, rounds: int = 16, diffusion_steps: int = 25, **options: object) -> int:
        """Of the diffusion model; the transformers run once a round."""
        return rounds * diffusion_steps

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        guidance: float = 1.0,
        seed: int = 0,
        rounds: int = 16,
        diffusion_steps: int = 25,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draws latents (B, C, side, side), in the autoencoder's units.

        Args:
            labels, seed: as of `Generator.generate`.
            guidance: s at the end; it grows from 1 with the share of tokens that are known.
            rounds: from 1 to N; MaskGIT's cosine says how many tokens each reveals.
            diffusion_steps: from 1 to T, for each token.
            temperature: factor of the diffusion's noise.
        """
        c, n, generator = self.config, self.config.side**2, torch.Generator().manual_seed(seed)
        if not (1 <= rounds <= n and 1 <= diffusion_steps <= c.timesteps):
            raise ValueError(f"rounds is {rounds} and diffusion_steps is {diffusion_steps}, "
                             f"expected 1 to {n}, and 1 to {c.timesteps}")  # fmt: skip
        order = torch.rand(len(labels), n, generator=generator).argsort(1).to(labels.device)
        classes = with_null(labels, c.num_classes, guidance)
        x, left = self.latent_std.new_zeros(len(labels), n, c.channels), n
        for t in range(1, rounds + 1):
            visible, left = n - left, hidden_after(t, rounds, n, left)
            z = self(classes, both(x, guidance), both(order, guidance), visible)
            revealed = order[:, visible : n - left]
            z = take(z, both(revealed, guidance)).flatten(0, 1)
            scale = 1 + (guidance - 1) * (n - left) / n
            drawn = self.head.draw(z, diffusion_steps, scale, temperature, generator)
            x = put(x, revealed, drawn.view(*revealed.shape, -1))
        return (x * self.latent_std).transpose(1, 2).unflatten(2, (c.side, c.side))


def take(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of x (B, N, C) at positions (B, m): (B, m, C)."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[2]))


def put(x: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """x (B, N, C) with rows (B, m, C) at positions (B, m)."""
    return x.scatter(1, positions[..., None].expand(-1, -1, x.shape[2]), rows)
