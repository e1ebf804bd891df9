"""Quick forms of the tokenizer: few images at a time, so that their maps stay in the cache."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from ..model.autoencoder import Decoder, Downsample, Encoder, Upsample
from ..model.quantizer import MultiScaleQuantizer
from ..model.tokenizer import MultiScaleVQVAE
from .copies import forget, ready
from .halves import halved
from .trial import observed

MAP_BYTES = 1 << 22
"""Most memory of the maps that go through a layer together, as if they were float32."""
LOOKUP_BYTES = 1 << 26
"""Most memory that the distances of vectors to codes take at a time."""


class QuickQuantizer(MultiScaleQuantizer):
    """Looks up as many vectors at a time as memory is meant for."""

    def lookup_tokens(self, z: Tensor) -> Tensor:
        """As in `MultiScaleQuantizer`."""
        rows = max(1, LOOKUP_BYTES // (4 * self.vocab_size))
        if observed(z) or len(z) <= rows:
            return super().lookup_tokens(z)
        few = super().lookup_tokens
        return torch.cat([few(part) for part in z.split(rows)])


class QuickVQVAE(MultiScaleVQVAE):
    """Encoder and decoder by laid-out copies where no gradient is asked for."""

    in_halves = False  # see `quicken`

    def encode_features(self, images: Tensor) -> Tensor:
        """As in `MultiScaleVQVAE`."""
        return self._through(images, self.encoder, self.pre_quant).to(images.dtype)

    def decode_features(self, f_hat: Tensor) -> Tensor:
        """As in `MultiScaleVQVAE`."""
        dtype = self.post_quant.weight.dtype
        return self._through(f_hat.to(dtype), self.post_quant, self.decoder).to(dtype)

    def _through(self, x: Tensor, *layers: nn.Module) -> Tensor:
        quick = [ready(layer) for layer in layers]  # weights laid out once, not every call
        if x.device.type != "cpu" or any(q is own for q, own in zip(quick, layers)):
            if not self.in_halves:
                return chain(quick, _layout(x))
            wanted = [p for layer in layers for p in layer.parameters() if p.requires_grad]
            return halved(functools.partial(chain, quick), wanted, _layout(x))
        h, w = (side // self.config.patch for side in self.image_size)
        # So many images are on their way at a time: between levels the maps of all are joined.
        group = max(16, 2 * MAP_BYTES // (self.config.width * h * w))
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.cat([in_pieces(quick, part, MAP_BYTES).float() for part in x.split(group)])

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; training drops the copies that `ready` made."""
        if mode:
            forget(self)
        return super().train(mode)


def chain(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Sends x through one part after another."""
    for part in parts:
        x = part(x)
    return x


def in_pieces(networks: Iterable[nn.Module], x: Tensor, most: int) -> Tensor:
    """`chain`, so few images at a time that a level's widest map takes `most` bytes in float32.

    Small maps then go through with many images, which fills a CPU's cores, and large ones with few,
    which stay in its cache.
    """
    levels: list[list[nn.Module]] = [[]]
    for layer in _layers(networks):  # cut where the size of a map changes
        if isinstance(layer, Upsample):
            levels.append([])
        levels[-1].append(layer)
        if isinstance(layer, Downsample):
            levels.append([])
    for level in levels:
        few = max(1, most // (4 * _widest(level, x))) if len(x) > 1 else 1
        parts = [chain(level, part) for part in x.split(few)]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]
    return x


def _layers(networks: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers in their order; an encoder's and a decoder's parts are registered in it."""
    for network in networks:
        if isinstance(network, (Encoder, Decoder)):
            yield from _layers(network.children())
        elif type(network) is nn.Sequential:
            yield from network
        else:
            yield network


def _widest(level: list[nn.Module], x: Tensor) -> int:
    """Numbers of an image in the widest map of a level that x enters."""
    area = x.shape[2] * x.shape[3]
    if isinstance(level[0], Upsample):
        area *= 4
    if isinstance(level[0], nn.PixelUnshuffle):
        area //= level[0].downscale_factor ** 2
    convs = (m for layer in level for m in layer.modules() if isinstance(m, nn.Conv2d))
    return area * max(conv.out_channels for conv in convs)


def _layout(x: Tensor) -> Tensor:
    """Channels-last, but in float32 on a CPU, where the plain order is as quick."""
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)
