"""Infinity: VAR that predicts the bits of a token, and trains on its own kind of mistakes.

Source: Han et al. 2024, "Infinity: Scaling Bitwise AutoRegressive Modeling for High-Resolution
Image Synthesis" (arXiv:2412.04431), "Infinite-Vocabulary Classifier" and "Bitwise
Self-Correction"; the released code for the weights of scales and for sampling.

    p(token | h) = prod_{i<d} softmax(W_i h + c_i)[bit i]    (w + 1) 2 d parameters, h is (w,)
    in place of    softmax(W h + c)[token]                   (w + 1) 2^d

Self-correction. In training each bit of a scale is flipped with chance p ~ U{0, .01, ..., .30}, and
the residual is computed again from what was flipped:

    r_k = bits of down(f - f^_{k-1}),  f^_k = f^_{k-1} + up(code of flip(r_k, p)),  f^_0 = 0
    target of scale k: r_k, not flipped;  input of scale k + 1: f^_k, resized by interpolation

So r_{k+1} holds what corrects the flips before it. (Targets of the image without flips would teach
to ignore them.) The features f themselves are needed, not only the image's tokens.

    L = -mean over tokens of a_k / d sum_i log p(bit i of r_k)
    a_k = (area_K / area_k)^(1/2) / Z, with Z such that a_k is 1 on average over tokens

Transformer, AdaLN and cache are VAR's. Left out: text by cross-attention (a class conditions as in
VAR), rotary positions (VAR's are learned), AdaLN weights shared by the blocks, aspect ratios.
Changed: each image has a p of its own at each scale, where the code has one a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.filters import draw, filter_logits
from ...model.sampler import Noise
from ...model.scales import ScaleSchedule
from ...model.transformer import VAR, VARConfig
from ..parts import both, combine, with_null
from ..tokenizers.lfq import to_tokens
from ..tokenizers.multiscale_bsq import MultiScaleBSQuantizer
from .generator import Generator, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class InfinityConfig(NetworkConfig):
    """Shape of an `Infinity`: about 18 depth width^2 parameters, and the head's."""

    depth: int = 4
    sizes: tuple[int, ...] = (1, 2, 3, 4)
    """Sides of the token maps, coarse to fine; the tokenizer's."""
    bits: int = 9
    """d, bits of a token; the tokenizer's."""
    group: int = 1
    """Bits that one softmax predicts together, a divisor of d: 1 is Infinity's head, d is VAR's."""
    flips: float = 0.0
    """Largest share of bits flipped in training; 0.3 in the paper, 0 is no self-correction."""
    area_power: float = 0.5
    """Exponent of area_K / area_k in the weights of the loss; 0 weighs all tokens alike."""
    init_gamma: float = 0.1
    """Scale of the initial AdaLN gates."""


def head_parameters(width: int, bits: int, group: int = 1) -> int:
    """Parameters of a head that predicts `group` bits by one softmax: bits / group of 2^group."""
    return (width + 1) * (bits // group) * 2**group


class Infinity(Generator):
    """Learns from features (B, d, H, W) of a `MultiScaleBSQ`, draws its pyramids."""

    config_class = InfinityConfig
    kind = "infinity"
    no_decay = VAR.no_decay

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.config, c = config, config
        if c.group < 1 or c.bits % c.group:
            raise ValueError(f"group is {c.group}, expected a divisor of bits {c.bits}")
        self.schedule = ScaleSchedule(c.sizes)
        self.quantizer = MultiScaleBSQuantizer(self.schedule, c.bits)  # has no parameters
        # VAR's last layer becomes all classifiers side by side.
        self.network = VAR(VARConfig(
            depth=c.depth, width=c.width, heads=c.heads, sizes=c.sizes, code_channels=c.bits,
            vocab_size=c.bits // c.group * 2**c.group, num_classes=c.num_classes,
            label_dropout=0.0, init_gamma=c.init_gamma,
        ))  # fmt: skip
        area = torch.tensor([float(n) for n in self.schedule.tokens_per_scale])
        weights = (area[-1] / area)[self.schedule.level_ids()] ** c.area_power
        self.register_buffer("weights", weights / weights.mean(), persistent=False)  # (L,)
        self.register_buffer("shifts", torch.arange(0, c.bits, c.group), persistent=False)  # (m,)

    def classes(self, tokens: Tensor) -> Tensor:
        """The right class of each of the m = bits / group classifiers: tokens (...) -> (..., m)."""
        return tokens[..., None] >> self.shifts & 2**self.config.group - 1

    def next_input(self, f_hat: Tensor, k: int) -> Tensor:
        """What scale k (from 0) reads of f^ of those before it: (B, h_k w_k, d)."""
        f_hat = F.interpolate(f_hat, size=self.schedule.grids[k], mode="bilinear")
        return f_hat.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def teacher(self, features: Tensor, flips: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Targets and inputs of all scales.

        Args:
            features: (B, d, H, W), before quantization.
            flips: LongTensor (B, L), the bits to be flipped, each set as in a token; None for none.

        Returns:
            Tokens (B, L), not flipped, and inputs (B, L - h_1 w_1, d), which come of flipped ones.
        """
        if flips is None:
            flips = self.shifts.new_zeros(len(features), self.schedule.num_tokens)
        f_hat, tokens, inputs = torch.zeros_like(features), [], [features.new_empty(
            len(features), 0, self.config.bits)]  # fmt: skip
        for k, flip in enumerate(self.schedule.unflatten(flips)):
            residual = self.quantizer.down(features - f_hat, k)  # (B, d, h, w)
            tokens.append(to_tokens(residual.movedim(1, -1) > 0))  # (B, h, w)
            f_hat = f_hat + self.quantizer.up(self.quantizer.bsq.embed(tokens[-1] ^ flip))
            if k + 1 < len(self.schedule):
                inputs.append(self.next_input(f_hat, k + 1))
        return self.schedule.flatten(tokens), torch.cat(inputs, dim=1)

    def random_flips(self, count: int) -> Tensor:
        """What self-correction flips of so many images: a LongTensor (count, L)."""
        c, where, hundredths = self.config, self.shifts.device, round(100 * self.config.flips)
        share = torch.randint(hundredths + 1, (count, len(self.schedule)), device=where) / 100
        random = torch.rand(count, self.schedule.num_tokens, c.bits, device=where)
        return to_tokens(random < share[:, self.network.level_ids, None])

    def surprise(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """-log p of tokens (B, L) in nats, (B, L), by the network's logits (B, L, m 2^group)."""
        logits = logits.unflatten(2, (len(self.shifts), -1))
        return -logits.log_softmax(3).gather(3, self.classes(tokens)[..., None]).sum((2, 3))

    def training_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy a bit, in nats, weighted as above; training alone flips bits."""
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise ValueError("the batch holds tokens, expected features (B, d, H, W): "
                             "tokenizer.features(images)")  # fmt: skip
        c, labels = self.config, self.shown(labels)
        flips = self.random_flips(len(features)) if self.training and c.flips else None
        tokens, inputs = self.teacher(features, flips)
        surprise = self.surprise(self.network(labels, inputs), tokens)
        return (surprise * self.weights).mean() / c.bits

    def steps(self, **options: object) -> int:
        """K, a step a scale."""
        return len(self.schedule)

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        *,
        guidance: float = 1.0,
        seed: int = 0,
        tau: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.97,
        cached: bool = True,
        forced: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """Draws scale by scale, all bits of a scale independently: K LongTensors (B, h_k, w_k).

        Args:
            labels, guidance, seed: as of `Generator.generate`; guidance is alike at all scales.
            tau: temperature, .5 to 1 in the paper's pictures; ValueError unless above 0.
            top_k, top_p: as in `filter_logits`: a bit's value less likely than 1 - top_p goes.
            forced: the first maps; those after them have the random numbers that they always have.
        """
        if not tau > 0:
            raise ValueError(f"tau is {tau}, expected above 0: top_k=1 takes the likelier bits")
        noise, m = Noise(seed, 0, len(labels), labels.device), len(self.shifts)
        shown = with_null(labels, self.null, guidance)
        x, modulations, head = self.network.condition(shown)
        cache, maps, inputs, f_hat = self.network.new_cache(len(shown)), [], [], 0.0
        for k, (h, w) in enumerate(self.schedule.grids):
            if cached:
                logits = self.network.step(k, x, modulations, head, cache)
            else:
                logits = self.logits_anew(shown, inputs)[:, self.schedule.slices[k]]
            logits = combine(logits / tau, guidance).reshape(len(labels), h * w * m, -1)
            drawn = draw(filter_logits(logits, top_k, top_p), noise.uniform(h * w * m))
            drawn = (drawn.unflatten(1, (h, w, m)) << self.shifts).sum(-1)  # (B, h, w)
            maps.append(forced[k] if k < len(forced) else drawn)
            f_hat = f_hat + self.quantizer.up(self.quantizer.bsq.embed(maps[-1]))
            if k + 1 < len(self.schedule):
                inputs.append(both(self.next_input(f_hat, k + 1), guidance))
                x = self.network.word(inputs[-1].to(self.network.word.weight))
        return maps

    def logits_anew(self, labels: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """All logits from the inputs so far; those of scales without an input mean nothing."""
        left = sum(self.schedule.tokens_per_scale[len(inputs) + 1 :])
        missing = self.weights.new_zeros(len(labels), left, self.config.bits)
        return self.network(labels, torch.cat([*inputs, missing], dim=1))
