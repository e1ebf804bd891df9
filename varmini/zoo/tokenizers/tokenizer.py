"""What the tokenizers of the zoo share: an encoder, a quantizer and a decoder behind one protocol.

One loop can train each of them:

    tokenizer.start(images)                           # once, on a first batch
    for each step:
        tokenizer.before_step(share)                  # the share of the run that is done
        result = tokenizer(images)                    # .images .tokens .loss .usage .features
        (distance(result.images, images) + result.loss).backward(), an optimizer's step
        tokenizer.after_step(result)                  # what moves without a gradient
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from ...model.autoencoder import Decoder, Encoder
from ...model.checks import check_images
from ...model.config import TokenizerConfig
from ...model.quantizer import full_float32
from ...model.tokenizer import Reconstruction
from ...runtime.pretrained import Pretrained


@dataclass(frozen=True)
class GridConfig:
    """The convolutional network around a quantizer; fields mean what they do in `TokenizerConfig`.

    The defaults are those of the live bed: 32 x 32 grey pixels to 4 x 4 features.
    """

    side: int = 4
    """Side of the feature map."""
    image_channels: int = 1
    """3 for colour, 1 for grey."""
    width: int = 16
    """Channels of the first level."""
    norm_groups: int = 4
    """Groups of the group normalisation."""
    multipliers: tuple[int, ...] = (1, 2, 4)
    """Channels of each level in units of `width`."""
    num_res_blocks: int = 1
    """Residual blocks a level in the encoder."""
    attention: bool = False
    """Self-attention at the smallest level."""
    patch: int = 2
    """Pixels a side that are folded into channels first."""

    @classmethod
    def like(cls, network: TokenizerConfig, **own: object) -> Self:
        """The configuration with this tokenizer's network, and `own` values of the system."""
        shared = [f.name for f in fields(GridConfig) if f.name != "side"]
        same = {name: getattr(network, name) for name in shared}
        return cls(**({"side": network.sizes[-1]} | same | own))

    def network(self, channels: int) -> TokenizerConfig:
        """The tokenizer whose encoder and decoder these are, with so many features."""
        shared = [f.name for f in fields(GridConfig) if f.name != "side"]
        values = {name: getattr(self, name) for name in shared}
        config = TokenizerConfig(sizes=(self.side,), code_channels=channels, **values)
        config.check()
        return config

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.side * self.patch * 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class CodebookConfig(GridConfig):
    """What systems with a codebook share."""

    vocab_size: int = 512
    """V, codes in the codebook."""
    code_channels: int = 16
    """C, length of a code."""
    beta: float = 0.25
    """Weight of the commitment loss."""


class ImageTokenizer(nn.Module, Pretrained):
    """Images (B, C, H, W) in [-1, 1] to tokens and back. Left out around the quantizer: VQGAN's
    1x1 convolutions, since `conv_out` and `conv_in` next to them can do as much."""

    no_decay = ("quantizer",)
    by_rows: tuple[str, ...] = ("encoder", "decoder")
    """Parts that may train on a half of a batch at a time, as `varmini.fast.halves.divide` does."""

    def __init__(
        self, config: GridConfig, quantizer: nn.Module, encoder: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of an image's tokens."""
        depth = len(self.quantizer.vocab_sizes)
        return (self.config.side, self.config.side, *([depth] if depth > 1 else []))

    @property
    def tokens_per_image(self) -> int:
        """How many tokens an image is."""
        return math.prod(self.token_shape)

    @property
    def bits_per_image(self) -> float:
        """log2 of the number of different token maps."""
        sizes = self.quantizer.vocab_sizes
        return self.tokens_per_image * sum(map(math.log2, sizes)) / len(sizes)

    def features(self, images: Tensor) -> Tensor:
        """What is quantized: (B, code_channels, side, side). Raises a ValueError on bad images."""
        size = self.config.image_size
        check_images(images, self.config.image_channels, size, size)
        return self.encoder(images).float()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens of images (B, C, H, W) in [-1, 1]: a LongTensor (B, *token_shape).

        For multiscale-bsq, a list of K maps (B, h_k, w_k).

        Raises:
            ValueError: on images of another shape, type or range.
        """
        z = self.features(images)
        with full_float32(z.device.type):
            return self.quantizer(z).tokens

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Images (B, C, H, W), clamped to [-1, 1], of tokens (B, *token_shape).

        Raises:
            ValueError: on tokens of another shape or type, or outside the vocabulary.
        """
        self.check_tokens(tokens)
        return self.decode_features(self.quantizer.embed(tokens)).clamp(-1, 1)

    def decode_features(self, z_q: Tensor) -> Tensor:
        """The decoder alone: codes (B, code_channels, side, side) -> images, not clamped."""
        return self.decoder(z_q).float()

    def check_tokens(self, tokens: Tensor) -> None:
        """Raises a ValueError unless tokens are a LongTensor (B, *token_shape) in range."""
        if tuple(tokens.shape[1:]) != self.token_shape or tokens.dtype != torch.long:
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, expected a LongTensor "
                f"(B, {', '.join(map(str, self.token_shape))})"
            )
        limit = torch.tensor(self.quantizer.vocab_sizes, device=tokens.device)
        if tokens.numel() and not ((tokens >= 0) & (tokens < limit)).all():
            span = f"{int(tokens.min())} to {int(tokens.max())}"
            expected = ", ".join(f"[0, {v})" for v in self.quantizer.vocab_sizes)
            raise ValueError(f"tokens span {span}, expected {expected}")

    def forward(self, images: Tensor) -> Reconstruction:
        """The training pass: images (B, C, H, W) in [-1, 1] -> images, tokens, loss, usage."""
        z = self.features(images)
        with full_float32(z.device.type):
            quantized = self.quantizer(z)
        drawn = self.decode_features(quantized.z_q)
        return Reconstruction(drawn, quantized.tokens, quantized.loss, quantized.usage, z)

    @torch.no_grad()
    def start(self, images: Tensor) -> None:
        """Places the codes on the features of a first batch, before training."""
        self.quantizer.start(self.features(images))

    def before_step(self, share: float, shown: bool = True) -> None:
        """Told before each step which share of the training, in [0, 1), is done.

        shown: whether the pass has to give images even where nothing learns from them (TiTok).
        """

    def after_step(self, result: Reconstruction) -> None:
        """What a step changes without a gradient, by its result; nothing if that is not finite."""
        if result.loss.isfinite():
            self.quantizer.update(result.features.detach(), result.tokens)

    def adversary(self) -> nn.Module | None:
        """A new network to be fooled, for systems that train against one (`vqgan`)."""
        return None


class GridTokenizer(ImageTokenizer):
    """An `ImageTokenizer` with VAR's own encoder and decoder."""

    def __init__(self, config: GridConfig, quantizer: nn.Module, channels: int) -> None:
        network = config.network(channels)
        super().__init__(config, quantizer, Encoder(network), Decoder(network))
