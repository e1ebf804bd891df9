"""The shapes of the two networks, as their config.json files hold them."""

from __future__ import annotations

from dataclasses import dataclass

from .scales import Size


@dataclass(frozen=True)
class TokenizerConfig:
    """Shape of a `MultiScaleVQVAE`."""

    sizes: tuple[Size, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sizes of the token maps, coarse to fine; the last is the size of the feature map."""
    image_channels: int = 3
    """3 for colour, 1 for grey."""
    vocab_size: int = 4096
    """V, codes in the codebook."""
    code_channels: int = 32
    """C, length of a code."""
    width: int = 160
    """Channels of the first level, a multiple of `norm_groups`."""
    norm_groups: int = 32
    """Groups of the group normalisation; few channels a group would erase their brightness."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each level in units of `width`; every level after the first halves the size."""
    num_res_blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: bool = True
    """Self-attention at the smallest level, as in the paper's network."""
    patch: int = 1
    """Pixels a side that are folded into channels first; 2 makes a toy four times cheaper."""
    num_phi: int = 4
    """Phi convolutions, shared over neighbouring scales; 0 leaves phi out."""
    phi_strength: float = 0.5
    """Share of the convolution in phi."""
    beta: float = 0.25
    """Weight of the commitment loss."""
    lookup: str = "euclidean"
    """Nearest neighbour by "euclidean" (the paper's) or "cosine" distance."""

    def check(self) -> None:
        """Raises a ValueError that names the first value which describes no network."""
        names = ("image_channels", "code_channels", "num_res_blocks", "patch", "norm_groups")
        _at_least_one(self, (*names, "vocab_size"))
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers are {self.multipliers}, expected at least one, all >= 1")
        if self.width < 1 or self.width % self.norm_groups:
            raise ValueError(
                f"width is {self.width}, expected a multiple of norm_groups {self.norm_groups}"
            )
        if self.num_phi < 0:
            raise ValueError(f"num_phi is {self.num_phi}, expected 0 (without phi) or more")


@dataclass(frozen=True)
class VARConfig:
    """Shape of a `VAR`. The paper's rule: width 64 d, d heads, drop path 0.1 d / 24 at depth d."""

    depth: int = 16
    """Transformer blocks."""
    width: int = 1024
    """w, channels of the residual stream."""
    heads: int = 16
    """Attention heads."""
    sizes: tuple[Size, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sizes of the token maps; the tokenizer's."""
    vocab_size: int = 4096
    """V, codes in the tokenizer's codebook."""
    code_channels: int = 32
    """C, length of a code."""
    num_classes: int = 1000
    """Classes; the label after the last one is the null class."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward layer in units of `width`."""
    shared_adaln: bool = False
    """One modulation layer for all blocks (the 512-pixel model) instead of one a block."""
    qk_norm: bool = True
    """Normalise queries and keys, with a learned temperature a head."""
    drop_path: float = 0.0
    """Chance that the last block is skipped for a training image; earlier ones in proportion."""
    label_dropout: float = 0.1
    """Chance that a training image is shown the null class, for guidance."""
    init_gamma: float = 1e-3
    """Scale of the initial AdaLN gates (1e-3 up to depth 20, 1e-4 at 24, 1e-5 at 30)."""

    def check(self) -> None:
        """Raises a ValueError that names the first value which describes no network."""
        names = ("depth", "width", "heads", "vocab_size", "code_channels", "num_classes")
        _at_least_one(self, names)
        if round(self.width * self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}, expected more than 0")
        for name in ("drop_path", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a chance in [0, 1]")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


def _at_least_one(config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected at least 1")
