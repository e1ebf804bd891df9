"""How large a model is and how much it computes: parameters and floating-point operations.

A multiply-add counts as two FLOPs, and only matrix products and convolutions count, as in
`torch.utils.flop_counter`, against which the tests hold every figure here. What is left out (norms,
softmax, interpolation, the draw of a token) is bound by memory, not by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..fast.attention import rectangles
from ..model.scales import ScaleSchedule
from ..model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ..model.transformer import VAR, VARConfig

# --------------------------------------------------------------------------------------- parameters


def exact_parameters(config: VARConfig | TokenizerConfig) -> int:
    """Parameters of the real network, built without memory on the meta device."""
    build = VAR if isinstance(config, VARConfig) else MultiScaleVQVAE
    with torch.device("meta"):
        return sum(p.numel() for p in build(config).parameters())


def paper_parameters(depth: int, shared_adaln: bool = False) -> int:
    """The paper's count, matrices of the blocks alone: 18 d w^2 = 73,728 d^3 with w = 64 d.

    With one AdaLN layer for all blocks it is 12 d w^2 = 49,152 d^3 (section 3.2, implementation
    details, equation 8, and the footnote in section 5.1).
    """
    return (12 if shared_adaln else 18) * depth * (64 * depth) ** 2


def var_parameters(config: VARConfig) -> dict[str, int]:
    """All parameters of a transformer by part, as a formula; their sum is `exact_parameters`."""
    c, w, schedule = config, config.width, ScaleSchedule(config.sizes)
    hidden = round(w * c.mlp_ratio)
    biases = 2 * w + w + hidden + w + (c.heads if c.qk_norm else 0)  # q, v; proj; fc1; fc2; sigma
    layers = 1 if c.shared_adaln else c.depth
    return {
        "blocks": c.depth * (4 * w * w + 2 * w * hidden + biases),
        "AdaLN": layers * 6 * w * (w + 1) + (c.depth * 6 * w if c.shared_adaln else 0),
        # classes and the null class; start; positions; levels
        "embeddings": w
        * (c.num_classes + 1 + schedule.tokens_per_scale[0] + schedule.num_tokens + len(schedule)),
        "ends": w * (c.code_channels + 1) + 2 * w * (w + 1) + c.vocab_size * (w + 1),
    }


# ------------------------------------------------------------------------- FLOPs of the transformer


def visible_pairs(schedule: ScaleSchedule) -> int:
    """Query-key pairs that the block-causal mask lets through: sum_k n_k (n_1 + ... + n_k)."""
    return sum(n * part.stop for n, part in zip(schedule.tokens_per_scale, schedule.slices))


def computed_pairs(schedule: ScaleSchedule) -> int:
    """Query-key pairs that `attention.block_causal` computes: small scales share a rectangle."""
    return sum((at.stop - at.start) * keys for at, keys, _ in rectangles(schedule))


def var_flops(config: VARConfig, *, computed: bool = False) -> dict[str, int]:
    """FLOPs of one forward pass by part, for one image.

    Args:
        computed: count the hidden pairs that our attention computes and masks, as a counter of
            operations does, and not the visible ones alone.
    """
    c, w, schedule = config, config.width, ScaleSchedule(config.sizes)
    tokens = schedule.num_tokens
    pairs = computed_pairs(schedule) if computed else visible_pairs(schedule)
    layers = 1 if c.shared_adaln else c.depth
    return {
        # q, k, v, projection: 4 w^2; the two feed-forward matrices: 2 w hidden; a token, a block
        "blocks": 2 * c.depth * tokens * (4 * w * w + 2 * w * round(w * c.mlp_ratio)),
        # q k^T and p v: 2 w multiply-adds for every pair, over all heads
        "attention": 4 * c.depth * pairs * w,
        "AdaLN": 2 * (6 * layers + 2) * w * w,  # once an image, not once a token
        "input": 2 * (tokens - schedule.tokens_per_scale[0]) * c.code_channels * w,
        "head": 2 * tokens * w * c.vocab_size,
    }


def var_training_flops(
    config: VARConfig, *, computed: bool = False, recompute: bool = False
) -> int:
    """FLOPs of one image in a training step: forward, and backward at twice that.

    Args:
        computed: as in `var_flops`.
        recompute: the blocks run forward a second time, in the backward pass.
    """
    parts = var_flops(config, computed=computed)
    # The teacher's inputs need no gradient, so the input layer has one product less.
    total = 3 * sum(parts.values()) - parts["input"]
    return total + (parts["blocks"] + parts["attention"] if recompute else 0)


def var_sampling_flops(config: VARConfig, *, guided: bool = True) -> int:
    """FLOPs of drawing one image's tokens with the key-value cache: L tokens, each once.

    Args:
        guided: every image is drawn with and without its class; both share the input layer and,
            mixed before it, the head.
    """
    parts = var_flops(config)
    return (1 + guided) * sum(parts.values()) - guided * (parts["input"] + parts["head"])


# ------------------------------------------------------------------------------------ the tokenizer


@dataclass(frozen=True)
class Layer:
    """One step of the encoder or the decoder, as far as its cost goes."""

    kind: str
    """"conv" (3x3), "norm conv", "down", "up" (each with a 3x3), "block" or "attention".
    A CPU does an "up" as one transposed convolution, with 4/9 of the FLOPs that count here."""
    inputs: int
    """Channels that it reads."""
    outputs: int
    """Channels that it writes."""
    pixels: int
    """Positions that it writes, for one image."""

    @property
    def flops(self) -> int:
        """FLOPs of one image's forward pass."""
        a, b, n = self.inputs, self.outputs, self.pixels
        if self.kind == "attention":
            # q, k, v and projection: 4 c^2; q k^T and p v: 2 n c; for each of n positions
            return 2 * n * (4 * a * a + 2 * n * a)
        if self.kind == "block":
            shortcut = a * b if a != b else 0
            return 2 * n * (9 * a * b + 9 * b * b + shortcut)
        return 2 * n * 9 * a * b


def tokenizer_layers(config: TokenizerConfig) -> tuple[list[Layer], list[Layer]]:
    """The encoder's and the decoder's layers, each with the small convolution by the codes."""
    c, widths = config, [config.width * m for m in config.multipliers]
    h, w = ScaleSchedule(config.sizes).grids[-1]
    pixels = [h * w * 4**level for level in reversed(range(len(widths)))]
    pixel_channels, deepest, last = c.image_channels * c.patch**2, widths[-1], len(widths) - 1
    attention = [Layer("attention", deepest, deepest, pixels[-1])] if c.attention else []
    block = Layer("block", deepest, deepest, pixels[-1])
    middle = [block, *attention, block]

    encoder, channels = [Layer("conv", pixel_channels, widths[0], pixels[0])], widths[0]
    for level, width in enumerate(widths):
        for _ in range(c.num_res_blocks):
            encoder.append(Layer("block", channels, width, pixels[level]))
            encoder += attention if level == last else []
            channels = width
        if level < last:
            encoder.append(Layer("down", width, width, pixels[level + 1]))
    encoder += [*middle, Layer("norm conv", deepest, c.code_channels, pixels[-1])]
    small = Layer("conv", c.code_channels, c.code_channels, pixels[-1])

    decoder = [small, Layer("conv", c.code_channels, deepest, pixels[-1]), *middle]
    for level in reversed(range(len(widths))):
        for _ in range(c.num_res_blocks + 1):
            decoder.append(Layer("block", channels, widths[level], pixels[level]))
            decoder += attention if level == last else []
            channels = widths[level]
        if level > 0:
            decoder.append(Layer("up", channels, channels, pixels[level - 1]))
    return [*encoder, small], [*decoder, Layer("norm conv", channels, pixel_channels, pixels[0])]


def phi_flops(config: TokenizerConfig) -> int:
    """FLOPs of the phi convolutions of all K scales, for one image."""
    h, w = ScaleSchedule(config.sizes).grids[-1]
    one = 2 * h * w * 9 * config.code_channels**2
    return len(config.sizes) * one if config.num_phi else 0


def lookup_flops(config: TokenizerConfig) -> int:
    """FLOPs of finding the nearest codes of all L tokens of one image."""
    tokens = ScaleSchedule(config.sizes).num_tokens
    return 2 * tokens * config.code_channels * config.vocab_size


def encode_flops(config: TokenizerConfig) -> int:
    """FLOPs of `MultiScaleVQVAE.encode`, for one image."""
    encoder = sum(layer.flops for layer in tokenizer_layers(config)[0])
    return encoder + lookup_flops(config) + phi_flops(config)


def decode_flops(config: TokenizerConfig) -> int:
    """FLOPs of `MultiScaleVQVAE.decode`, for one image."""
    return sum(layer.flops for layer in tokenizer_layers(config)[1]) + phi_flops(config)


def tokenizer_training_flops(config: TokenizerConfig, *, recompute: bool = False) -> int:
    """FLOPs of one image's forward and backward pass through the tokenizer, its losses left out.

    Args:
        recompute: encoder and decoder run forward a second time, in the backward pass.
    """
    encoder, decoder = tokenizer_layers(config)
    network = sum(layer.flops for layer in encoder + decoder)
    # The images need no gradient, so the first convolution has one product less.
    total = 3 * (network + phi_flops(config)) - encoder[0].flops + lookup_flops(config)
    return total + (network if recompute else 0)


VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of VGG-16, the network of LPIPS, each 3x3; every group halves."""


def vgg_layers(size: tuple[int, int]) -> list[Layer]:
    """The convolutions of VGG-16 on an image of `size` pixels."""
    layers, inputs = [], 3
    for level, group in enumerate(VGG):
        for outputs in group:
            layers.append(Layer("conv", inputs, outputs, (size[0] >> level) * (size[1] >> level)))
            inputs = outputs
    return layers
