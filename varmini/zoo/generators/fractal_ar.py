"""FractalAR: a generator inside a generator, down to the values of single pixels.

Source: Li et al. 2025, "Fractal Generative Models" (arXiv:2502.17437), section 3 and appendix A.

    level 0:  h_i = GPT_0(class, patch_1, ..., patch_{i-1})_i        over the patches of the image
    level 1:  h_ij = GPT_1(h_i, pixel_1, ..., pixel_{j-1})_j         over the pixels of patch i
    pixel:    p(v_1, ..., v_C) = prod_c softmax(GPT_2(h_ij, v_1, ..., v_{c-1}))[v_c]
    log p(image | class) = sum_i sum_j sum_c log p(v_ijc | all values before)

There is no tokenizer, and the likelihood is exact. Sequences are short (64 patches of 16 pixels,
where raster AR over pixels has one of 1,024), but each level runs once for each child of the level
above it: training takes only some patches of an image down. Changed: all channels weigh the same
(the paper weighs red 5 times), and guidance does not grow over the patches. Left out: FractalMAR,
its guiding pixel, and the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.filters import draw
from ..parts import both, combine, with_null
from .causal import CausalTransformer, initialise
from .generator import ClassConfig, Generator


@dataclass(frozen=True, kw_only=True)
class FractalARConfig(ClassConfig):
    """Shape of a `FractalAR`; an entry per level, and a last one for the values of a pixel."""

    grids: tuple[int, ...] = (8, 4)
    """Children a side: 8x8 patches of 4x4 pixels."""
    widths: tuple[int, ...] = (128, 96, 48)
    """Channels of the transformers."""
    depths: tuple[int, ...] = (4, 2, 1)
    """Blocks of the transformers."""
    head_width: int = 16
    """Channels of an attention head, at every level."""
    channels: int = 1
    """Values of a pixel: 3 for colour, 1 for grey."""
    values: int = 256
    """V, different values."""
    patches: int = 16
    """Patches of each training image whose pixels are trained on at a step."""


def to_values(images: Tensor, values: int) -> Tensor:
    """Images in [-1, 1] -> the nearest integers in [0, values)."""
    return ((images + 1) * (values - 1) / 2).round().long()


def to_images(x: Tensor, values: int) -> Tensor:
    """Integers in [0, values) -> evenly spaced numbers in [-1, 1]."""
    return x * 2 / (values - 1) - 1


class Pixel(nn.Module):
    """The last level: the values of one pixel, one after the other, given the parent's h."""

    def __init__(self, c: FractalARConfig, parent: int) -> None:
        super().__init__()
        w = c.widths[-1]
        self.channels = c.channels
        self.condition, self.token_embedding = nn.Linear(parent, w), nn.Embedding(c.values, w)
        self.body = CausalTransformer(c.channels, c.depths[-1], w, w // c.head_width)
        self.head = nn.Linear(w, c.values)

    def forward(self, x: Tensor, parent: Tensor) -> Tensor:
        """log p of pixels x (n, C, 1, 1), of integers, given h (n, parent): (n,)."""
        x = x.flatten(1)
        start, words = self.condition(parent)[:, None], self.token_embedding(x[:, :-1])
        h = self.body(torch.cat([start, words], dim=1))
        logits = self.head(h).float()  # (n, C, V)
        return -F.cross_entropy(logits.transpose(1, 2), x, reduction="none").sum(1)

    def draw(self, parent: Tensor, scale: float, uniform: Callable[[int], Tensor]) -> Tensor:
        """Draws pixels (n, C, 1, 1), given h (n, parent), or (2 n, parent) under guidance.

        uniform(n) gives the next n random numbers in [0, 1).
        """
        h, cache, drawn = self.condition(parent)[:, None], self.body.new_cache(), []
        for i in range(self.channels):
            logits = self.head(self.body(h, cache, i)).float()
            logits = combine(tamed(logits) if scale != 1 else logits, scale)  # (n, 1, V)
            drawn.append(draw(logits, uniform(len(logits))[:, None]))
            h = self.token_embedding(both(drawn[-1], scale))
        return torch.cat(drawn, dim=1)[..., None, None]


def tamed(logits: Tensor) -> Tensor:
    """Both halves of logits (2 n, 1, V) as log p, ready for guidance.

    What is unlikely for the class (below 1e-4) is made at least as likely without it, so that
    guidance does not bring it back.
    """
    c, u = logits.log_softmax(-1).chunk(2)
    return torch.cat([c, torch.where(c.exp() < 1e-4, torch.maximum(c, u), u)])


class Level(nn.Module):
    """Children of an image in raster order, each drawn by the next level; level 0 is outermost."""

    def __init__(self, c: FractalARConfig, level: int, parent: int) -> None:
        super().__init__()
        w, self.grid = c.widths[level], c.grids[level]
        self.child, self.values = math.prod(c.grids[level + 1 :]), c.values
        self.condition = nn.Linear(parent, w)
        self.word = nn.Linear(c.channels * self.child**2, w)
        self.body = CausalTransformer(self.grid**2, c.depths[level], w, w // c.head_width)
        last = level + 1 == len(c.grids)
        self.inner = Pixel(c, w) if last else Level(c, level + 1, w)

    def read(self, children: Tensor) -> Tensor:
        """Children (..., C, p, p), of integers -> words (..., w)."""
        return self.word(to_images(children, self.values).flatten(-3))

    def forward(self, x: Tensor, parent: Tensor, some: int | None = None) -> Tensor:
        """log p of images x (n, C, s, s), of integers, given the parent's h (n, parent): (n,).

        some: take only so many random children of each down, and scale up their sum.
        """
        g, p = self.grid, self.child
        children = x.unflatten(3, (g, p)).unflatten(2, (g, p)).permute(0, 2, 4, 1, 3, 5)
        children = children.flatten(1, 2)  # (n, g^2, C, p, p)
        start = self.condition(parent)[:, None]
        h = self.body(torch.cat([start, self.read(children[:, :-1])], dim=1))  # (n, g^2, w)
        if some is not None and some < g * g:
            chosen = torch.rand(len(x), g * g, device=x.device).argsort(1)[:, :some]
            rows = torch.arange(len(x), device=x.device)[:, None]
            children, h = children[rows, chosen], h[rows, chosen]
        log_p = self.inner(children.flatten(0, 1), h.flatten(0, 1)).view(len(x), -1)
        return log_p.mean(1) * g * g

    def draw(self, parent: Tensor, scale: float, uniform: Callable[[int], Tensor]) -> Tensor:
        """Draws images (n, C, s, s), given h (n, parent), or (2 n, parent) under guidance."""
        h, cache, drawn = self.condition(parent)[:, None], self.body.new_cache(), []
        for i in range(self.grid**2):
            h = self.body(h, cache, i)[:, 0]
            drawn.append(self.inner.draw(h, scale, uniform))
            h = self.read(both(drawn[-1], scale))[:, None]
        rows = torch.stack(drawn, dim=1).unflatten(1, (self.grid, self.grid))
        return rows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class FractalAR(Generator):
    """p(image | class), value by value; images are LongTensors (B, C, H, W) in [0, V)."""

    config_class = FractalARConfig
    kind = "fractal-ar"
    by_rows = ("level.body", "level.inner")
    no_decay = ("class_embedding", "token_embedding", "position")

    def __init__(self, config: FractalARConfig) -> None:
        super().__init__()
        self.config, w = config, config.widths[0]
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.level = Level(config, 0, w)
        initialise(self)

    def forward(self, labels: Tensor, images: Tensor) -> Tensor:
        """log p(image | class) in nats: labels (B,), images (B, C, H, W) of integers -> (B,)."""
        return self.level(images, self.class_embedding(labels))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> their integers; the place of a tokenizer's `encode`."""
        return to_values(images, self.config.values)

    def decode(self, x: Tensor) -> Tensor:
        """Integers (B, C, H, W) -> images in [-1, 1]."""
        return to_images(x, self.config.values)

    def training_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """-log p per value, of some patches in training mode: images of integers, labels (B,)."""
        some = self.config.patches if self.training else None
        log_p = self.level(images, self.class_embedding(self.shown(labels)), some)
        return -log_p.mean() / images[0].numel()

    def steps(self, **options: object) -> int:
        """One a value."""
        return self.config.channels * math.prod(self.config.grids) ** 2

    @torch.no_grad()
    def generate(self, labels: Tensor, *, guidance: float = 1.0, seed: int = 0) -> Tensor:
        """Draws images of integers (B, C, H, W). Arguments as of `Generator.generate`."""
        generator, where = torch.Generator().manual_seed(seed), labels.device

        def uniform(n: int) -> Tensor:
            return torch.rand(n, generator=generator).to(where)

        start = self.class_embedding(with_null(labels, self.config.num_classes, guidance))
        return self.level.draw(start, guidance, uniform)
