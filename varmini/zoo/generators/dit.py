"""DiT: diffusion by a transformer on continuous latents, sampled by DDIM.

Source: Peebles and Xie 2022, "Scalable Diffusion Models with Transformers" (arXiv:2212.09748), with
AdaLN-Zero; sampler of Song et al. 2020, "Denoising Diffusion Implicit Models" (arXiv:2010.02502).

    z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps,    L = |eps - eps_theta(z_t, t, class)|^2

Left out: the learned variance (DDIM with eta = 0 has none) and patches, as the latent is 8x8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts import SelfAttention, guided
from .generator import Generator


@dataclass(frozen=True)
class DiTConfig:
    """Shape of a `DiT`: about 18 depth width^2 parameters."""

    depth: int = 5
    """Transformer blocks."""
    width: int = 128
    """Channels of the residual stream, a multiple of 4."""
    heads: int = 4
    """Attention heads."""
    side: int = 8
    """Side of the latent map."""
    channels: int = 4
    """Channels of the latent."""
    num_classes: int = 10
    """Classes; the label after the last one is the null class."""
    label_dropout: float = 0.1
    """Chance that a training image is shown the null class, for guidance."""
    timesteps: int = 1000
    """T, noise levels; beta rises linearly from 1e-4 to 0.02."""


def waves(position: Tensor, width: int) -> Tensor:
    """Cosines and sines of positions (N,) at width / 2 frequencies from 1 to 1e-4: (N, width)."""
    angle = position[:, None] * 1e4 ** (-torch.arange(width // 2) / (width // 2)).to(position)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def signal_levels(timesteps: int) -> Tensor:
    """abar_t = prod_{s <= t} (1 - beta_s) for t = 0 .. T - 1, with beta linear: (T,) float32."""
    return (1 - torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)).cumprod(0).float()


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, with a layer norm that has no weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """x <- x + g_1 Attn(LN(x) (1 + s_1) + b_1);  x <- x + g_2 FFN(LN(x) (1 + s_2) + b_2).

    The formula of VAR's block, but the six modulations are zero at first (AdaLN-Zero), so that
    every block starts as the identity, and attention is plain.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, N, w), condition (B, w) after its SiLU -> (B, N, w)."""
        m = self.modulation(condition).unflatten(1, (6, 1, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = m.unbind(1)
        x = x + gate1 * self.attention(modulate(x, scale1, shift1))
        h = F.gelu(self.fc1(modulate(x, scale2, shift2)), approximate="tanh")
        return x + gate2 * self.fc2(h)


class DiT(Generator):
    """Predicts the noise epsilon in z_t = sqrt(abar_t) z + sqrt(1 - abar_t) epsilon."""

    config_class = DiTConfig
    kind = "dit"
    by_rows = ("",)
    no_decay = ("class_embedding",)

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config, w = config, config.width
        self.word = nn.Linear(config.channels, w)
        self.time = nn.Sequential(nn.Linear(256, w), nn.SiLU(), nn.Linear(w, w))
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.depth))
        self.head_modulation, self.head = nn.Linear(w, 2 * w), nn.Linear(w, config.channels)
        rows = torch.arange(config.side).repeat_interleave(config.side).float()
        columns = torch.arange(config.side).repeat(config.side).float()
        position = torch.cat([waves(rows, w // 2), waves(columns, w // 2)], dim=1)
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("abar", signal_levels(config.timesteps), persistent=False)
        # Latents are divided by their standard deviation, so that z has about unit variance.
        self.register_buffer("latent_std", torch.ones(()))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time[0], self.time[2], self.class_embedding):
            nn.init.normal_(module.weight, std=0.02)
        zero = [b.modulation for b in self.blocks] + [self.head_modulation, self.head]
        for module in zero:
            nn.init.zeros_(module.weight)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """epsilon_theta: z (B, C, side, side), t (B,) in [0, T), labels (B,) -> like z, float32."""
        x = self.word(z.flatten(2).transpose(1, 2)) + self.position
        condition = F.silu(self.time(waves(t.float(), 256)) + self.class_embedding(labels))
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.head_modulation(condition).unflatten(1, (2, 1, -1)).unbind(1)
        x = self.head(modulate(x, scale, shift)).float()
        return x.transpose(1, 2).unflatten(2, z.shape[2:])

    def noised(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t = sqrt(abar_t) z + sqrt(1 - abar_t) noise, with t (B,)."""
        abar = self.abar[t].view(-1, 1, 1, 1)
        return abar.sqrt() * z + (1 - abar).sqrt() * noise

    def training_loss(self, latents: Tensor, labels: Tensor) -> Tensor:
        """|epsilon - epsilon_theta(z_t, t, class)|^2, t uniform, averaged over everything.

        latents: (B, C, side, side), as the autoencoder gives them; labels: (B,).
        """
        c = self.config
        labels = self.shown(labels)
        z = latents.float() / self.latent_std
        t = torch.randint(c.timesteps, (len(z),), device=z.device)
        noise = torch.randn_like(z)
        return F.mse_loss(self(self.noised(z, t, noise), t, labels), noise)

    def steps(self, *, steps: int = 50, **options: object) -> int:
        """Those of DDIM."""
        return steps

    @torch.no_grad()
    def generate(
        self, labels: Tensor, *, steps: int = 50, guidance: float = 1.0, seed: int = 0
    ) -> Tensor:
        """DDIM with eta = 0: noise to latents in `steps` sequential steps, without further noise.

        Args:
            labels: (B,) in [0, num_classes].
            steps: from 1 to T, evenly spaced noise levels.
            guidance: s of u + s (c - u), on all channels; 1 is none.
            seed: the same seed and batch give the same latents.

        Returns:
            (B, C, side, side), in the autoencoder's units.
        """
        c, generator = self.config, torch.Generator().manual_seed(seed)
        shape = (len(labels), c.channels, c.side, c.side)
        z = torch.randn(shape, generator=generator).to(labels.device)
        levels = torch.linspace(c.timesteps - 1, 0, steps).round().long().tolist()

        def noise_in(t: int, z: Tensor, labels: Tensor) -> Tensor:
            return self(z, torch.full_like(labels, t), labels)

        for now, following in zip(levels, [*levels[1:], None]):
            epsilon = guided(partial(noise_in, now), z, labels, c.num_classes, guidance)
            abar = self.abar[now]
            # z_0 = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)
            z0 = (z - (1 - abar).sqrt() * epsilon) / abar.sqrt()
            # z_s = sqrt(abar_s) z_0 + sqrt(1 - abar_s) eps;  after the last level z_0 itself
            left = 1.0 if following is None else float(self.abar[following])
            z = math.sqrt(left) * z0 + math.sqrt(1 - left) * epsilon
        return z * self.latent_std
