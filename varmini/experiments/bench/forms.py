"""Every quick form of the library beside the plain one that it replaces, in turn.

Sizes are those of the shape "small", medium's where a form is made for long sequences. The quick
forms are for bf16 on a CPU; elsewhere both columns run the same code.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fast.layers import _GELU, Conv, Doubling, Linear
from ...model import tokenizer
from ...model.attention import attend, block_causal, normalised, spans
from ...model.autoencoder import NormSiLU
from ...model.block import gated, split_modulations
from ...model.filters import _ascending
from ...model.scales import ScaleSchedule
from ...runtime.machine import autocast, can_compile, precision
from ...runtime.tables import Row
from .measure import Run, in_turn
from .shapes import SHAPES, Shape, models
from .speed import short

Pair = tuple[Run, Run]


def _step(function: Callable[..., Tensor], *given: Tensor, weights: tuple = ()) -> Run:
    """Forward and backward under autocast, with the gradients of `given` and of `weights`."""
    given = tuple(x.clone().requires_grad_() for x in given)

    def run() -> None:
        with autocast("cpu"):
            out = function(*given)
        torch.autograd.grad(out.float().sum(), (*given, *weights))

    return run


def _forward(function: Callable[..., Tensor], *given: Tensor) -> Run:
    """Forward alone, without gradients, under autocast."""

    def run() -> None:
        with torch.no_grad(), autocast("cpu"):
            function(*given)

    return run


@torch.no_grad()
def _laid_out(layer):
    layer.eval().lay_out("cpu")
    return layer


def attention_forms(shape: Shape, batch: int) -> Iterator[tuple[str, Pair]]:
    """Products and softmax by hand, and cut into rectangles."""
    dtype, heads = precision("cpu"), shape.depth
    schedule = ScaleSchedule(shape.sizes)
    mask, length = schedule.mask(), schedule.num_tokens
    qkv = torch.randn(batch, length, 3, heads, 64).to(dtype)
    temperature = torch.full((heads, 1, 1), 4.0)

    def fused(qkv: Tensor) -> Tensor:
        qkv = qkv.permute(2, 0, 3, 1, 4)
        q, k = normalised(qkv[:2], temperature)
        mixed = F.scaled_dot_product_attention(q, k, qkv[2], attn_mask=mask, scale=1.0)
        return mixed.transpose(1, 2).flatten(2)

    parts, whole = spans(schedule, mask), [(slice(0, length), length, mask)]
    by_hand = _step(lambda x: block_causal(x, temperature, parts), qkv)
    yield "attention, training: by hand", (by_hand, _step(fused, qkv))
    masked = _step(lambda x: block_causal(x, temperature, whole), qkv)
    yield "attention, training: rectangles", (by_hand, masked)
    q, k, v = torch.randn(3, 2, heads, length, 64).to(dtype)
    q = q[:, :, schedule.slices[-1]]
    plain = _forward(lambda: F.scaled_dot_product_attention(q, k, v, scale=1.0))
    yield "attention, drawing: by hand", (_forward(lambda: attend(q, k, v)), plain)


def block_form(shape: Shape, batch: int) -> Iterator[tuple[str, Pair]]:
    """A whole block by torch.compile, which writes its own kernels, beside the eager one."""
    block = models(shape)[0].cpu().blocks[0]
    x = torch.randn(batch, ScaleSchedule(shape.sizes).num_tokens, 64 * shape.depth)
    modulation = torch.randn(1, batch, 6, 64 * shape.depth)
    parts = spans(ScaleSchedule(shape.sizes), ScaleSchedule(shape.sizes).mask())
    weights = tuple(block.parameters())
    compiled = torch.compile(block.forward)

    def with_modulation(form: Callable[..., Tensor]) -> Run:
        def run(x: Tensor, modulations: Tensor) -> Tensor:
            return form(x, split_modulations(modulations, x.dtype)[0], parts)

        return _step(run, x, modulation, weights=weights)

    yield "block, training: torch.compile", (with_modulation(compiled), with_modulation(block))


def drawing_forms(shape: Shape) -> Iterator[tuple[str, Pair]]:
    """A block's bf16 branch, added to the float32 stream through its gate."""
    width, dtype = 64 * shape.depth, precision("cpu")
    x = torch.randn(2, ScaleSchedule(shape.sizes).tokens_per_scale[-1], width)
    gate, branch = torch.randn(2, 1, width), torch.randn(x.shape).to(dtype)
    low = gate.to(dtype)
    summed = _forward(lambda: gated(x, gate, branch)), _forward(lambda: x + low * branch)
    yield "gate and sum in one call", summed


def layer_forms(shape: Shape) -> Iterator[tuple[str, Pair]]:
    """Linear layers, convolutions, norms, GELU."""
    width, rows = 64 * shape.depth, 2 * ScaleSchedule(shape.sizes).tokens_per_scale[-1]
    usual, x = Linear(width, 4 * width), torch.randn(rows, width)
    packed = _laid_out(Linear(width, 4 * width))

    def plain(x: Tensor) -> Tensor:
        return F.linear(x, usual.weight, usual.bias)

    def plain_gelu(x: Tensor) -> Tensor:
        return F.gelu(plain(x), approximate="tanh")

    yield "linear layer: laid out", (_forward(packed, x), _forward(plain, x))
    both = _forward(lambda: packed(x, gelu=True)), _forward(plain_gelu, x)
    yield "linear layer: laid out, with GELU", both
    many = torch.randn(shape.train * rows, width)
    weights = usual.weight, usual.bias
    steps = (_step(form, many, weights=weights) for form in (usual, plain))
    yield "linear layer, training", tuple(steps)
    z = torch.randn(shape.train * rows, 4 * width).to(precision("cpu"))
    tanh = _step(lambda z: F.gelu(z, approximate="tanh"), z)
    yield "GELU, training", (_step(_GELU.apply, z), tanh)
    channels, side = 4 * shape.decoder, shape.sizes[-1]
    last = torch.channels_last
    small = torch.randn(1, channels, side, side).to(precision("cpu")).contiguous(memory_format=last)
    conv = Conv(channels, channels, 3, padding=1)
    laid = _laid_out(Conv(channels, channels, 3, padding=1))
    yield "convolution: laid out", (_forward(laid, small), _forward(conv, small))
    norm = NormSiLU(channels, 32)
    plain_norm = _forward(lambda: F.silu(torch.nn.GroupNorm.forward(norm, small)))
    yield "group norm of a small map", (_forward(norm, small), plain_norm)
    doubling, quick = Doubling(shape.decoder), _laid_out(Doubling(shape.decoder))
    half = torch.randn(1, shape.decoder, 8 * side, 8 * side).to(precision("cpu"))
    half = half.contiguous(memory_format=last)  # the map before the picture's size

    def repeated() -> Tensor:
        return doubling.conv(F.interpolate(half, scale_factor=2.0, mode="nearest"))

    yield "doubling: one transposed convolution", (_forward(quick, half), _forward(repeated))
    logits = torch.randn(rows, shape.vocab_size)
    yield "sort of logits", (_forward(_ascending, logits), _forward(torch.sort, logits))


def pieces_form(shape: Shape, batch: int) -> tuple[str, Pair]:
    """The decoder on a few images at a time, and on all."""
    tok = models(shape)[1].cpu()
    f_hat = torch.randn(batch, tok.config.code_channels, *tok.schedule.grids[-1])
    few = tokenizer.MAP_BYTES

    def all_at_once() -> None:
        tokenizer.MAP_BYTES = 2**62
        try:
            tok.decode_features(f_hat)
        finally:
            tokenizer.MAP_BYTES = few

    return "decoder: in pieces", (_forward(tok.decode_features, f_hat), _forward(all_at_once))


def form_rows(
    rounds: int, limit: float, kind: str, short_shape: str = "small", long_shape: str = "medium"
) -> Iterator[Row]:
    """A row a form: milliseconds of both, and how many times as fast the quick one is.

    Args:
        rounds, limit, kind: as in `measure.in_turn`.
        short_shape, long_shape: names of `SHAPES`.
    """
    torch.manual_seed(0)
    quick_shape, long = SHAPES[short_shape], SHAPES[long_shape]
    compiled = block_form(quick_shape, quick_shape.train) if can_compile() else []
    for name, forms in (
        (short_shape, compiled),
        (short_shape, attention_forms(quick_shape, quick_shape.train)),
        (long_shape, attention_forms(long, long.train)),
        (short_shape, drawing_forms(quick_shape)),
        (short_shape, layer_forms(quick_shape)),
        (short_shape, [pieces_form(quick_shape, 16)]),
    ):
        for form, pair in forms:
            runs = dict(zip(("quick", "plain"), pair))
            in_turn(runs, 1, 0, kind)  # warms up
            seconds = in_turn(runs, rounds, limit, kind)
            quick, plain = (statistics.median(s) for s in seconds.values())
            ratios = [b / a for a, b in zip(*seconds.values())]
            yield {
                "shape": name,
                "form": form,
                "quick_ms": short(1e3 * quick),
                "plain_ms": short(1e3 * plain),
                "times_as_fast": short(plain / quick),
                "ratio_low": short(min(ratios)),
                "ratio_high": short(max(ratios)),
                "rounds": len(ratios),
                "clock": kind,
            }
