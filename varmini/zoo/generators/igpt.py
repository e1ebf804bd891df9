"""iGPT: a picture as a sequence of pixels, each one of a palette's colours.

Source: Chen et al. 2020, "Generative Pretraining from Pixels" (ICML 2020, no arXiv number).

    palette = k-means of the training pixels;    x_i = number of the colour nearest to pixel i
    p(x_1, ..., x_N | class) = prod_i p(x_i | x_1, ..., x_{i-1}, class)

The network is GPT-2's. There is no tokenizer to learn: the picture is only made small, because N
grows with its area. The paper has 512 colours at 32x32 to 64x64 pixels. Changed: the class stands
where the paper's start token is. Left out: BERT's objective, and the linear probes, which were the
paper's aim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.checks import check_images
from ...runtime.pretrained import Pretrained
from ..tokenizers.quantizer import nearest, rows, some_rows
from .causal import Cache, CausalTransformer, initialise
from .generator import Generator, NetworkConfig, draw_in_order


@dataclass(frozen=True)
class PaletteConfig:
    """Shape of a `Palette`."""

    colours: int = 64
    """V, colours of the palette."""
    side: int = 16
    """Side of the small picture in pixels."""
    image_size: int = 32
    """Side of the images in pixels, a multiple of `side`."""
    image_channels: int = 1
    """3 for colour, 1 for grey."""
    border: int = 0
    """b, small pixels left out all round, for images that are black there: `decode` makes them
    black, so what an image shows there is lost."""


class Palette(nn.Module, Pretrained):
    """What stands in for a tokenizer: images (B, C, H, W) to colours (B, h, h) and back.

    h = side - 2 border.
    """

    config_class = PaletteConfig
    kind = "palette"

    def __init__(self, config: PaletteConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("palette", torch.zeros(config.colours, config.image_channels))

    @torch.no_grad()
    def fit(self, images: Tensor, rounds: int = 20) -> None:
        """Places the palette on images by k-means; a colour that no pixel is nearest to stays."""
        pixels = rows(self.shrunk(images))
        # Starts on different colours, as far as there are so many.
        self.palette.copy_(some_rows(pixels.unique(dim=0), len(self.palette)))
        for _ in range(rounds):
            chosen = nearest(pixels, self.palette)
            counts = chosen.bincount(minlength=len(self.palette))[:, None]
            sums = torch.zeros_like(self.palette).index_add_(0, chosen, pixels)
            self.palette.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), self.palette))

    def shrunk(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> (B, C, h, h), or a ValueError on bad images."""
        c = self.config
        check_images(images, c.image_channels, c.image_size, c.image_size)
        return F.pad(F.avg_pool2d(images, c.image_size // c.side), [-c.border] * 4)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Nearest colours of images in [-1, 1], made small: (B, h, h)."""
        small = self.shrunk(images)
        return nearest(rows(small), self.palette).view(len(small), *small.shape[2:])

    def decode(self, tokens: Tensor) -> Tensor:
        """Colours (B, h, h) -> images (B, C, H, W), with the border, enlarged linearly."""
        small = F.pad(self.palette[tokens].permute(0, 3, 1, 2), [self.config.border] * 4, value=-1)
        return F.interpolate(small, self.config.image_size, mode="bilinear")


@dataclass(frozen=True, kw_only=True)
class IGPTConfig(NetworkConfig):
    """Shape of an `IGPT`: about 12 depth width^2 parameters."""

    side: int = 16
    """Side of the small picture, without the palette's border."""
    vocab_size: int = 64
    """Colours of the palette."""


class IGPT(Generator):
    """Position 0 reads the class and predicts x_1; position i reads x_i and predicts x_{i+1}."""

    config_class = IGPTConfig
    kind = "igpt"
    by_rows = ("",)
    no_decay = ("class_embedding", "token_embedding", "position")

    def __init__(self, config: IGPTConfig) -> None:
        super().__init__()
        self.config, w = config, config.width
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.token_embedding = nn.Embedding(config.vocab_size, w)
        self.body = CausalTransformer(config.side**2, config.depth, w, config.heads)
        self.head = nn.Linear(w, config.vocab_size, bias=False)
        initialise(self)

    def forward(self, labels: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, n + 1, V): labels (B,) and the first n tokens (B, n) -> what may follow."""
        x = torch.cat([self.class_embedding(labels)[:, None], self.token_embedding(tokens)], dim=1)
        return self.head(self.body(x)).float()

    def step(self, labels: Tensor, tokens: Tensor, cache: Cache) -> Tensor:
        """Logits (B, V) of the token after `tokens` (B, i), all but the last of them cached."""
        i = tokens.shape[1]
        x = self.token_embedding(tokens[:, -1:]) if i else self.class_embedding(labels)[:, None]
        return self.head(self.body(x, cache, i))[:, 0].float()

    def training_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """-1/N sum_i log p(x_i | x_1, ..., x_{i-1}, class): tokens (B, side, side), labels (B,)."""
        flat = tokens.flatten(1)
        logits = self(self.shown(labels), flat[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), flat.flatten())

    def steps(self, **options: object) -> int:
        """One a pixel."""
        return self.config.side**2

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        guidance: float = 1.0,
        seed: int = 0,
        top_k: int = 0,
        top_p: float = 0.0,
        cached: bool = True,
    ) -> Tensor:
        """Draws pixel by pixel, row by row: a LongTensor (B, side, side).

        Args:
            labels, guidance, seed: as of `Generator.generate`.
            top_k, top_p: as in `varmini.model.filters.filter_logits`.
            cached: keep keys and values; otherwise every step computes all positions anew.
        """
        c, cache = self.config, self.body.new_cache()

        def following(shown: Tensor, classes: Tensor) -> Tensor:
            return self.step(classes, shown, cache) if cached else self(classes, shown)[:, -1]

        tokens = draw_in_order(
            following, labels, self.steps(), c.num_classes,
            guidance=guidance, seed=seed, top_k=top_k, top_p=top_p,
        )  # fmt: skip
        return tokens.unflatten(1, (c.side, c.side))
