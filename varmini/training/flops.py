"""How large a model is and how much it computes: parameters and floating-point operations.

A multiply-add counts as two FLOPs, and only matrix products and convolutions count: what is left
out (norms, softmax, interpolation, the draw of a token) is bound by memory, not by arithmetic. The
transformer is counted by formulas, part by part; the tokenizer's networks by torch's own counter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..fast.attention import rectangles
from ..model.scales import ScaleSchedule
from ..model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ..model.transformer import VAR, VARConfig

VGG_FLOPS = 2 * 305_856
"""FLOPs a pixel of the 13 convolutions of VGG-16, the network of LPIPS."""


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


def visible_pairs(schedule: ScaleSchedule) -> int:
    """Query-key pairs that the block-causal mask lets through: sum_k n_k (n_1 + ... + n_k)."""
    return sum(n * part.stop for n, part in zip(schedule.tokens_per_scale, schedule.slices))


def computed_pairs(schedule: ScaleSchedule) -> int:
    """Query-key pairs that our attention computes: small scales share a rectangle."""
    return sum((at.stop - at.start) * keys.stop for at, keys, _ in rectangles(schedule))


def var_flops(config: VARConfig, *, computed: bool = False) -> dict[str, int]:
    """FLOPs of one image's forward pass by part.

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

    With guidance an image is drawn with and without its class; both share the input layer and,
    mixed before it, the head.
    """
    parts = var_flops(config)
    return (1 + guided) * sum(parts.values()) - guided * (parts["input"] + parts["head"])


@functools.cache
def _network_flops(config: TokenizerConfig) -> tuple[int, int, int]:
    """FLOPs of the encoder, of the decoder, and of both forward and backward, for one image."""

    def counted(work: Callable[[], object]) -> int:
        # The fused backward pass of attention would compute q k^T again.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            work()
        return counter.get_total_flops()

    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        tok = MultiScaleVQVAE(config)
        images = torch.empty(1, config.image_channels, *tok.image_size)
        f_hat = torch.empty(1, config.code_channels, *tok.schedule.grids[-1])
        return (
            counted(lambda: tok.features(images)),
            counted(lambda: tok.decode_features(f_hat)),
            counted(lambda: tok.decode_features(tok.features(images)).sum().backward()),
        )


def _phi_flops(config: TokenizerConfig) -> int:
    """FLOPs of the phi convolutions of all K scales."""
    h, w = ScaleSchedule(config.sizes).grids[-1]
    return len(config.sizes) * 2 * h * w * 9 * config.code_channels**2 if config.num_phi else 0


def lookup_flops(config: TokenizerConfig) -> int:
    """FLOPs of finding the nearest codes of all L tokens of one image."""
    tokens = ScaleSchedule(config.sizes).num_tokens
    return 2 * tokens * config.code_channels * config.vocab_size


def encode_flops(config: TokenizerConfig) -> int:
    """FLOPs of `MultiScaleVQVAE.encode`, for one image."""
    return _network_flops(config)[0] + lookup_flops(config) + _phi_flops(config)


def decode_flops(config: TokenizerConfig) -> int:
    """FLOPs of `MultiScaleVQVAE.decode`, for one image."""
    return _network_flops(config)[1] + _phi_flops(config)


def tokenizer_training_flops(config: TokenizerConfig, *, recompute: bool = False) -> int:
    """FLOPs of one image's forward and backward pass through the tokenizer, its losses left out.

    Args:
        recompute: encoder and decoder run forward a second time, in the backward pass.
    """
    encoder, decoder, both_ways = _network_flops(config)
    again = encoder + decoder if recompute else 0
    return both_ways + again + 3 * _phi_flops(config) + lookup_flops(config)
