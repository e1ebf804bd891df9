"""InfinityStar: a video is its first frame and clips after it, each a pyramid that grows in space.

Source: Liu et al. 2025, "InfinityStar: Unified Spacetime AutoRegressive Modeling for Visual
Generation" (arXiv:2511.04675): "Spacetime Pyramid Modeling", "Spacetime Sparse Attention".

    p(video | class) = prod over clips c, scales k of p(r_k^c | f^_{k-1}^c, clip c - 1, class)

Scale k of a clip of T latent frames is a map of T h_k w_k tokens, all drawn at once: time does not
grow. A token is d bits, as in Infinity, and bits are flipped in training as there. Who sees whom:

    a scale sees itself, the class token, and the whole of the clip before
    coarser scales of its own clip reach it through its input alone, f^_{k-1} resized
    the first scale of a clip has zeros for input

So a clip reads no clip but the last one, and a cache holds one clip and not the video. The first
frame is a clip of its own: with its tokens given, the model continues an image.

Changed: the paper's clip c sees the last scale of clip c - 1, whose input lacks that scale's own
tokens. Of its many scales, repeated, that is little; of three it is most of the picture. So a clip,
once drawn, is read once more, whole (K more below), and that is what the next clip sees. Left out:
text (a class conditions, by a token and AdaLN), rotary positions (these are learned, space plus
time), repeated scales, stochastic quantizer depth, projected guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.filters import draw, filter_logits
from ...model.sampler import Noise
from ..parts import both, combine, with_null
from ..tokenizers.lfq import to_tokens
from ..tokenizers.multiscale_bsq import MultiScaleBSQuantizer
from .generator import Generator, NetworkConfig
from .spacetime import ClipCache, Part, SpaceTimePyramid, SpaceTimeTransformer


@dataclass(frozen=True, kw_only=True)
class InfinityStarConfig(NetworkConfig):
    """Shape of an `InfinityStar`."""

    depth: int = 4
    """Transformer blocks."""
    sizes: tuple[int, ...] = (1, 2, 4)
    """Sides of the token maps of a latent frame, coarse to fine; the tokenizer's."""
    bits: int = 16
    """d, bits of a token; the tokenizer's."""
    clips: tuple[int, ...] = (1, 2, 2, 2)
    """Latent frames of each clip; the first is one frame."""
    flips: float = 0.2
    """Largest share of bits flipped in training (self-correction)."""
    init_gamma: float = 0.1
    """Scale of the initial AdaLN gates."""


class InfinityStar(Generator):
    """Learns from features (B, d, T, h, w) of a `CausalVideoTokenizer`, draws its maps."""

    config_class = InfinityStarConfig
    kind = "infinity-star"
    no_decay = ("class_embedding", "space", "time", "log_scale")
    by_rows = ("surprise",)

    def __init__(self, config: InfinityStarConfig) -> None:
        super().__init__()
        self.config, c = config, config
        self.pyramid = SpaceTimePyramid(c.sizes, c.clips)
        self.schedule = self.pyramid.schedule
        self.quantizer = MultiScaleBSQuantizer(self.schedule, c.bits)  # has no parameters
        self.network = SpaceTimeTransformer(
            self.pyramid, depth=c.depth, width=c.width, heads=c.heads, bits=c.bits,
            num_classes=c.num_classes, init_gamma=c.init_gamma,
        )  # fmt: skip
        at = [(i, p.scale) for p in self.pyramid.drawn for i in range(p.at.start, p.at.stop)]
        weights = torch.tensor([c.sizes[-1] / c.sizes[k] for _, k in at])
        self.register_buffer("drawn_at", torch.tensor([i for i, _ in at]), persistent=False)
        self.register_buffer("weights", weights / weights.mean(), persistent=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks."""
        return self.network.blocks

    def input_of(self, part: Part, f_hat: Tensor | None) -> Tensor:
        """What a part of a clip reads of its sum so far, (B, T, d, h, w): (B, l, d)."""
        size = [*self.schedule.grids, self.schedule.grids[-1]][part.scale]
        x = F.interpolate(f_hat.flatten(0, 1), size=size, mode="bilinear")
        return x.unflatten(0, f_hat.shape[:2]).movedim(2, 4).flatten(1, 3)

    def add(self, f_hat: Tensor, tokens: Tensor) -> Tensor:
        """f^ (B, T, d, h, w) and the codes of one more scale's tokens (B, T, h_k, w_k)."""
        codes = self.quantizer.up(self.quantizer.bsq.embed(tokens.flatten(0, 1)))
        return f_hat + codes.unflatten(0, f_hat.shape[:2])

    @torch.no_grad()
    def teacher(self, features: Tensor, flips: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Targets and inputs of all parts.

        Args:
            features: (B, d, T, h, w), before quantization.
            flips: K LongTensors (B, T, h_k, w_k), the bits to be flipped, if any.

        Returns:
            Tokens (B, N) of drawn parts, not flipped; inputs (B, length - 1, d) of flipped ones.
        """
        f = features.transpose(1, 2)
        maps, sums = [], [torch.zeros_like(f)]
        for k in range(len(self.schedule)):
            residual = self.quantizer.down((f - sums[-1]).flatten(0, 1), k)
            maps.append(to_tokens(residual.movedim(1, -1) > 0).unflatten(0, f.shape[:2]))
            sums.append(self.add(sums[-1], maps[-1] ^ flips[k] if flips else maps[-1]))
        tokens = [maps[p.scale][:, self.pyramid.frames(p.clip)] for p in self.pyramid.drawn]
        inputs = [self.input_of(p, sums[p.scale][:, self.pyramid.frames(p.clip)])
                  for p in self.pyramid.parts[1:]]  # fmt: skip
        return torch.cat([t.flatten(1) for t in tokens], dim=1), torch.cat(inputs, dim=1)

    def random_flips(self, count: int) -> list[Tensor]:
        """Flips of so many videos; each map of each latent frame has a share of its own."""
        c, where, found = self.config, self.weights.device, []
        for h, w in self.schedule.grids:
            share = c.flips * torch.rand(count, sum(c.clips), 1, 1, 1, device=where)
            random = torch.rand(*share.shape[:2], h, w, c.bits, device=where)
            found.append(to_tokens(random < share))
        return found

    def training_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy a bit, in nats; coarser scales weigh more, as in Infinity."""
        expected = (self.config.bits, sum(self.config.clips), *self.schedule.grids[-1])
        if not torch.is_floating_point(features) or features.shape[1:] != expected:
            raise ValueError(f"the batch is {features.dtype} of shape {tuple(features.shape)}, "
                             f"expected features (B, {', '.join(map(str, expected))}): "
                             f"tokenizer.features(videos)")  # fmt: skip
        labels = self.shown(labels)
        flips = self.random_flips(len(features)) if self.training and self.config.flips else ()
        return self.surprise(labels, features, *flips).mean()

    def surprise(self, labels: Tensor, features: Tensor, *flips: Tensor) -> Tensor:
        """Cross-entropy a bit of each video, weighted over scales: (B,). Flips as in `teacher`."""
        tokens, inputs = self.teacher(features, flips)
        logits = self.network(labels, inputs).index_select(1, self.drawn_at)
        bits = tokens[..., None] >> torch.arange(self.config.bits, device=tokens.device) & 1
        each = F.cross_entropy(logits.reshape(-1, 2), bits.flatten(), reduction="none")
        return (each.view(bits.shape).mean(2) * self.weights).mean(1)

    def steps(self, **options: object) -> int:
        """A step a scale and clip, and those that read a clip once more."""
        return len(self.pyramid.parts)

    @torch.no_grad()
    def generate(
        self, labels: Tensor, *, guidance: float = 1.0, seed: int = 0, tau: float = 1.0,
        top_k: int = 0, top_p: float = 0.97, cached: bool = True, known: Sequence[Tensor] = (),
    ) -> list[Tensor]:  # fmt: skip
        """Draws clip by clip, scale by scale: K LongTensors (B, T, h_k, w_k) of the whole video.

        Args:
            labels, guidance, seed, tau, top_k, top_p, cached: as of `Infinity.generate`.
            known: maps of the first clips (what `encode` gives of the first frames); these stay,
                and the rest is drawn with the random numbers that it always has.

        Raises:
            ValueError: when what is known is not some whole clips.
        """
        c, p = self.config, self.pyramid
        given = known[0].shape[1] if len(known) else 0
        ends = [p.frames(i).stop for i in range(len(c.clips))]
        if given not in (0, *ends) or len(known) not in (0, len(self.schedule)):
            raise ValueError(f"known holds {len(known)} maps of {given} latent frames, expected "
                             f"{len(self.schedule)} of {ends}: whole clips")  # fmt: skip
        noise = Noise(seed, 0, len(labels), labels.device)
        shown, maps, inputs = with_null(labels, c.num_classes, guidance), {}, []
        condition, cache = self.network.condition(shown), ClipCache(len(self.schedule))
        for part in p.parts:
            cache.part, x, at = part, condition[0], p.frames(max(part.clip, 0))
            if part.clip >= 0:
                if part.scale == 0:
                    f_hat = x.new_zeros(len(labels), at.stop - at.start, c.bits,
                                        *self.schedule.grids[-1])  # fmt: skip
                inputs.append(both(self.input_of(part, f_hat), guidance))
                x = self.network.word(inputs[-1])
            if cached:
                logits = self.network.step(x, condition, part.at, None, cache)
            if part not in p.drawn:
                continue
            if not cached:
                missing = x.new_zeros(len(x), p.length - part.at.stop, c.bits)
                logits = self.network(shown, torch.cat([*inputs, missing], dim=1))[:, part.at]
            logits = combine(logits / tau, guidance).reshape(len(labels), -1, 2)
            bits = draw(filter_logits(logits, top_k, top_p), noise.uniform(logits.shape[1]))
            tokens = to_tokens(bits.unflatten(1, (-1, *self.schedule.grids[part.scale], c.bits)))
            if at.stop <= given:
                tokens = known[part.scale][:, at]
            maps.setdefault(part.scale, []).append(tokens)
            f_hat = self.add(f_hat, tokens)
        return [torch.cat(parts, dim=1) for parts in maps.values()]
