"""Every quick form beside the plain one that it replaces, in turn, in training and in drawing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...fast import filters as quick_filters
from ...fast.attention import attend
from ...fast.copies import ready
from ...fast.quicken import quicken
from ...model import filters
from ...model.autoencoder import NormSiLU, ResBlock, SpatialAttention, Upsample
from ...runtime.machine import autocast, device
from ...runtime.tables import Row
from .measure import Run, arithmetic, in_pairs, name_of, precisions
from .shapes import SHAPES, Shape, models

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Form:
    """A quick form, the plain one, and what both are given."""

    name: str
    quick: Function
    plain: Function
    inputs: tuple[Tensor, ...]
    train: bool = False
    """Forward and backward; else forward alone, with weights laid out ahead."""

    def run(self, function: Function) -> Run:
        """A call of one of them in the surrounding arithmetic."""
        return self._training(function) if self.train else self._drawing(function)

    def _training(self, function: Function) -> Run:
        inputs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in self.inputs]
        weights = list(function.parameters()) if isinstance(function, nn.Module) else []
        asked = [x for x in (*inputs, *weights) if x.requires_grad]

        def step() -> None:
            with autocast():
                out = function(*inputs)
            torch.autograd.grad(out.float().sum(), asked, allow_unused=True)

        return step

    def _drawing(self, function: Function) -> Run:
        inputs, last = self.inputs, torch.channels_last
        if function is self.quick and isinstance(function, nn.Module):
            # Maps come to quick layers laid out, as weights are.
            inputs = [x.contiguous(memory_format=last) if x.ndim == 4 else x for x in inputs]
            with torch.no_grad(), autocast():
                function = ready(function.eval())

        def draw() -> None:
            with torch.no_grad(), autocast():
                function(*inputs)

        return draw


def layer(name: str, plain: nn.Module, x: Tensor) -> Form:
    """The form of a layer: `quicken` of the same."""
    plain = plain.to(device())
    return Form(name, quicken(copy.deepcopy(plain)), plain, (x,))


def forms(shape: Shape) -> Iterator[Form]:
    """All forms at the sizes that a model of this shape has."""
    where, width, channels, side = device(), 64 * shape.depth, shape.decoder, shape.sizes[-1]
    var, tok = models(shape)
    quick, mask = quicken(copy.deepcopy(var)), var.mask
    x = torch.randn(shape.train, var.schedule.num_tokens, width, device=where)
    six = torch.randn(shape.train, 6, width, device=where)
    own, theirs = quick.blocks[0], var.blocks[0]
    yield Form("attention", own.attention, theirs.attention, (x, mask), train=True)
    yield Form("block", own, theirs, (x, six, mask), train=True)
    last = torch.randn(2, side * side, width, device=where)  # the last scale, guided
    yield layer("linear layer", nn.Linear(width, 4 * width), last)
    yield Form("linear layer and GELU", WithGELU(own.fc1), WithGELU(theirs.fc1), (last,))
    q, k, v = torch.randn(3, 2, shape.depth, var.schedule.num_tokens, 64, device=where)
    fused = partial(F.scaled_dot_product_attention, scale=1.0)
    yield Form("attention", attend, fused, (q[:, :, -side * side :], k, v))
    logits = torch.randn(2, side * side, shape.vocab_size, device=where)
    top = {"top_k": shape.vocab_size // 2, "top_p": 0.96}
    ours, usual = (partial(each.filter_logits, **top) for each in (quick_filters, filters))
    yield Form("filter", ours, usual, (logits,))
    small = torch.randn(1, 4 * channels, side, side, device=where)
    yield layer("convolution", nn.Conv2d(4 * channels, 4 * channels, 3, padding=1), small)
    yield layer("group norm and SiLU", NormSiLU(4 * channels, 32), small)
    yield layer("residual block", ResBlock(4 * channels, 4 * channels, 32), small)
    yield layer("attention over a map", SpatialAttention(4 * channels, 32), small)
    half = torch.randn(1, channels, 8 * side, 8 * side, device=where)  # before the picture's size
    yield layer("doubling", Upsample(channels), half)
    f_hat = torch.randn(16, tok.config.code_channels, side, side, device=where)
    quick_tok = quicken(copy.deepcopy(tok))
    yield Form("decoder", quick_tok.decode_features, tok.decode_features, (f_hat,))


class WithGELU(nn.Module):
    """A linear layer and GELU, in one call where the layer can."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        if type(self.linear) is nn.Linear:
            return F.gelu(self.linear(x), approximate="tanh")
        return self.linear(x, gelu=True)


def form_rows(shapes: tuple[str, ...], rounds: int, limit: float) -> Iterator[Row]:
    """A row a form and precision: milliseconds of both, how many times as fast the quick one is.

    shapes: names of `SHAPES`. rounds, limit: as in `measure.in_turn`.
    """
    for name in shapes:
        for form in forms(SHAPES[name]):
            for dtype in precisions():
                with arithmetic(dtype):
                    runs = {"quick": form.run(form.quick), "plain": form.run(form.plain)}
                    yield {
                        "shape": name,
                        "form": form.name,
                        "what": "train" if form.train else "draw",
                        "arithmetic": name_of(dtype),
                        **in_pairs(runs, rounds, limit),
                    }
