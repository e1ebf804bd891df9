"""MAR's head: a diffusion model of one token, small enough to run for each.

Source: Li et al. 2024 (arXiv:2406.11838), section 3.2. Levels and short chain: Nichol and Dhariwal
2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv:2102.09672).

    L = E |eps - eps_theta(x_t | t, z)|^2,    x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps
    x_s = sqrt(abar_s) b / (1 - abar_t) x_0 + sqrt(a) (1 - abar_s) / (1 - abar_t) x_t
          + temperature sqrt(b (1 - abar_s) / (1 - abar_t)) n,       a = abar_t / abar_s,  b = 1 - a

with x_0 = (x_t - sqrt(1 - abar_t) eps_theta) / sqrt(abar_t), not clipped. Changed: the levels of a
short chain lie in the middle of their intervals, so that none has next to no signal. Left out: the
learned variance.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parts import both, combine
from .dit import modulate, waves


def cosine_levels(timesteps: int) -> Tensor:
    """abar_t = f(t + 1) / f(0), f(t) = cos^2((t/T + 0.008) / 1.008 pi/2), beta <= 0.999: (T,)."""
    t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (f[1:] / f[:-1]).clamp(min=0.001).cumprod(0).float()


class Block(nn.Module):
    """x <- x + gate MLP(LN(x) (1 + scale) + shift), the three from the condition, zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x and condition (n, width) -> (n, width)."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=1)
        return x + gate * self.mlp(modulate(x, scale, shift))


class DiffusionHead(nn.Module):
    """p(x | z) of real-valued tokens.

    Args:
        channels: of a token.
        condition: channels of z.
        depth, width: blocks and channels of the network.
        timesteps: T, noise levels.
    """

    def __init__(
        self, channels: int, condition: int, depth: int, width: int, timesteps: int
    ) -> None:
        super().__init__()
        self.word, self.condition = nn.Linear(channels, width), nn.Linear(condition, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, channels)
        for module in [*(block.modulation for block in self.blocks), self.modulation, self.out]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        self.register_buffer("abar", cosine_levels(timesteps), persistent=False)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """eps_theta: x (n, C), t (n,) in [0, T), z (n, condition) -> (n, C) float32."""
        condition = F.silu(self.time(waves(t.float(), 256)) + self.condition(z))
        x = self.word(x)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=1)
        return self.out(modulate(x, scale, shift)).float()

    def loss(self, x: Tensor, z: Tensor, noises: int) -> Tensor:
        """Mean |eps - eps_theta|^2 of tokens x (n, C) given z, each at so many noise levels."""
        x, z = x.repeat(noises, 1), z.repeat(noises, 1)
        t = torch.randint(len(self.abar), (len(x),), device=x.device)
        abar, noise = self.abar[t][:, None], torch.randn_like(x)
        return F.mse_loss(self(abar.sqrt() * x + (1 - abar).sqrt() * noise, t, z), noise)

    @torch.no_grad()
    def draw(
        self, z: Tensor, steps: int, scale: float, temperature: float, generator: torch.Generator
    ) -> Tensor:
        """Draws tokens (n, C) in `steps` steps from T down.

        Args:
            z: (n, condition), or under guidance (2 n, condition) with the null class's below.
            scale: s of u + s (c - u), on eps; 1 is none.
            temperature: factor of the noise that each step adds.
            generator: source of all noise, on the CPU.
        """
        shape = len(z) // (1 if scale == 1 else 2), self.word.in_features
        every = len(self.abar) / steps
        levels = [int(every * (i + 0.5)) for i in reversed(range(steps))]
        x = torch.randn(shape, generator=generator).to(z.device)
        for t, following in zip(levels, [*levels[1:], None]):
            times = torch.full((len(z),), t, device=z.device)
            eps = combine(self(both(x, scale), times, z), scale)
            now = self.abar[t]
            left = self.abar[following] if following is not None else torch.ones_like(now)
            x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
            a = now / left
            x = (left.sqrt() * (1 - a) * x0 + a.sqrt() * (1 - left) * x) / (1 - now)
            spread = ((1 - a) * (1 - left) / (1 - now)).sqrt()  # 0 in the last step
            x = x + temperature * spread * torch.randn(shape, generator=generator).to(z.device)
        return x
