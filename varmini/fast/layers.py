"""Quick layers: linear, convolution, group norm, attention over a map, doubling a map's size.

Each takes the weights of the plain layer and gives its result. In a copy that `copies.ready` makes,
`lay_out` keeps the weights in the order in which oneDNN's products read them, through the operators
that torch.compile uses too. What each form gains is measured: results/bench/forms.csv.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.autoencoder import NormSiLU, ResBlock, SpatialAttention, Upsample
from ..runtime import machine
from .trial import observed, trial, works

PLAIN_CONV = [1, 1], [1, 1], [1, 1], 1
"""Padding, stride, dilation and groups of the trial's convolution."""
PIECE = 2**18
"""Numbers that stay in the cache from one pass over them to the next."""


class QuickLinear(nn.Linear):
    """x W^T + b; in a copy, weights in oneDNN's order and GELU with the product or `by_sigmoid`."""

    packed = False

    def forward(self, x: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
        """(..., inputs) -> (..., outputs); `bias` instead of the layer's own."""
        bias = self.bias if bias is None else bias
        if self.packed:
            x = x.to(self.kept)
            by_hand = gelu and by_sigmoid(x)
            form = ("gelu", [], "tanh") if gelu and not by_hand else ("none", [], "")
            y = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, *form)
            return gelu_(y) if by_hand else y
        y = F.linear(x, self.weight, bias)
        if not gelu:
            return y
        return GELU.apply(y) if by_sigmoid(y) else F.gelu(y, approximate="tanh")

    def lay_out(self, device: str, dtype: torch.dtype) -> None:
        """Replaces the weights by those that products in `dtype` read."""
        weight, self.kept = self.weight.detach().to(dtype), dtype
        self.packed = device == "cpu" and works("linear", dtype)
        del self.weight
        self.weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight
        )
        if self.bias is not None:
            bias = self.bias.detach().to(dtype)
            del self.bias
            self.bias = bias


def by_sigmoid(x: Tensor) -> bool:
    """Whether GELU of x is quicker by `gate`."""
    if observed(x):  # first: whoever compiles cannot ask the machine
        return False
    return x.device.type == "cpu" and x.dtype is torch.float32 and machine.slow_at_gelu()


A, B = math.sqrt(8 / math.pi), 0.044715 * math.sqrt(8 / math.pi)


def gate(x: Tensor) -> Tensor:
    """(1 + tanh v) / 2 of GELU's tanh form, by a sigmoid."""
    # (1 + tanh v) / 2 = sigmoid(2 v),  2 v = x (A + B x^2)
    return torch.addcmul(x.new_tensor(A), x, x, value=B).mul_(x).sigmoid_()


def gelu_(x: Tensor) -> Tensor:
    """GELU in its tanh form, in place, of a dense x."""
    for part in x.view(-1).split(PIECE):
        part.mul_(gate(part))
    return x


class GELU(torch.autograd.Function):
    """GELU in its tanh form with its gradient, by `gate`; keeps what torch's keeps, x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        ctx.save_for_backward(x)
        x = x.contiguous()
        y = torch.empty_like(x)
        for x_, y_ in zip(*(t.view(-1).split(PIECE) for t in (x, y))):
            torch.mul(x_, gate(x_), out=y_)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """d/dx x g(x) = g + x g' = g (1 + x (A + 3 B x^2) (1 - g))."""
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient's gradient
            return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")
        x, dy = x.contiguous(), dy.contiguous()
        dx = torch.empty_like(x)
        for x_, dy_, dx_ in zip(*(t.view(-1).split(PIECE) for t in (x, dy, dx))):
            g = gate(x_)
            torch.addcmul(x.new_tensor(A), x_, x_, value=3 * B, out=dx_).mul_(x_)
            dx_.mul_(1 - g).add_(1).mul_(g).mul_(dy_)
        return dx


@trial("linear")
def _try_linear(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, w, b = (torch.randn(*shape).to(dtype) for shape in ((6, 64), (96, 64), (96,)))
    packed = torch.ops.mkldnn._reorder_linear_weight(w / 8, None)
    quick = torch.ops.mkldnn._linear_pointwise(x, packed, b, "gelu", [], "tanh")
    return quick, F.gelu(F.linear(x.float(), w.float() / 8, b.float()), approximate="tanh")


class QuickConv(nn.Conv2d):
    """A convolution; in a copy, with weights in the order that suits the first map that comes."""

    packed = False

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """The convolution of x (B, C, H, W), and `plus` added in the same pass over memory."""
        if not self.packed:
            y = super().forward(x)
            return y if plus is None else y + plus
        where = list(self.padding), list(self.stride), list(self.dilation), self.groups
        x = x.to(self.bias.dtype)
        if not self.weight.is_mkldnn:
            reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.weight = reorder(self.weight.to_mkldnn(), *where, list(x.shape))
        product = torch.ops.mkldnn._convolution_pointwise
        if plus is not None:
            plus = plus.to(self.bias.dtype)
            return product(x, plus, self.weight, self.bias, *where, "add", 1.0, None, [], None)
        return product(x, self.weight, self.bias, *where, "none", [], "")

    def lay_out(self, device: str, dtype: torch.dtype) -> None:
        """Replaces the weights by those that products in `dtype` read."""
        weight, bias = (p.detach().to(dtype) for p in (self.weight, self.bias))
        self.packed = device == "cpu" and works("convolution", dtype)
        del self.weight, self.bias
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias


@trial("convolution")
def _try_conv(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shapes = (2, 16, 6, 6), (24, 16, 3, 3), (24,), (2, 24, 6, 6)
    x, w, b, plus = (torch.randn(*shape).to(dtype) for shape in shapes)
    x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w / 12))
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(w.to_mkldnn(), *PLAIN_CONV, list(x.shape))
    product = torch.ops.mkldnn._convolution_pointwise
    quick = product(x, plus, packed, b, *PLAIN_CONV, "add", 1.0, None, [], None)
    return quick, F.conv2d(x.float(), w.float(), b.float(), padding=1) + plus.float()


class QuickNormSiLU(NormSiLU):
    """On small maps a CPU's group norm is slow in channels-last order; large ones keep it."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] * x.shape[3] < 1024 and not x.is_contiguous():
            h = nn.GroupNorm.forward(self, x.contiguous())
            h = h.contiguous(memory_format=torch.channels_last)
        else:
            h = nn.GroupNorm.forward(self, x)
        return F.silu(h, inplace=not torch.is_grad_enabled())


class QuickResBlock(ResBlock):
    """The sum in the same pass over memory as the second convolution."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv1(self.norm1(x)))
        if type(self.conv2) is QuickConv:
            return self.conv2(h, plus=self.shortcut(x))
        return self.conv2(h) + self.shortcut(x)


class QuickSpatialAttention(SpatialAttention):
    """By plain products in bfloat16 on a CPU, where the fused kernel's backward is slow."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # (B, H W, C)
        if q.device.type == "cpu" and q.dtype is torch.bfloat16:
            mixed = torch.softmax(q * q.shape[2] ** -0.5 @ k.mT, dim=2) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        if type(self.proj) is QuickConv:
            return self.proj(mixed, plus=x)
        return x + self.proj(mixed)


class QuickUpsample(Upsample):
    """Doubling and the 3x3 convolution as one transposed convolution with 4x4 summed weights.

    Of the nine products for an output pixel only four see different inputs: 4/9 of the work.
    """

    WHERE = [1, 1], [0, 0], [2, 2], [1, 1], 1
    """Padding, padding of the output, stride, dilation, groups of the transposed convolution."""
    kernel: Tensor | None = None
    """The summed weights, in a copy."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or type(self.conv) is not QuickConv:
            return super().forward(x)
        if self.kernel is None:
            weight, bias = self.conv.weight, self.conv.bias
            if x.dtype != weight.dtype and not torch.is_autocast_enabled("cpu"):
                return super().forward(x)
            return F.conv_transpose2d(x, summed(weight), bias, stride=2, padding=1)
        x = x.to(self.conv.bias.dtype)
        if not self.kernel.is_mkldnn:
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            self.kernel = reorder(self.kernel, *self.WHERE, list(x.shape))
        product = torch.ops.mkldnn._convolution_transpose_pointwise
        return product(x, self.kernel, self.conv.bias, *self.WHERE, "none", [], "")

    def lay_out(self, device: str, dtype: torch.dtype) -> None:
        """Keeps the summed weights in `dtype`."""
        if device == "cpu" and works("doubling", dtype):
            kernel = summed(self.conv.weight.detach()).to(dtype)
            self.kernel = kernel.contiguous(memory_format=torch.channels_last)


def summed(kernel: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) weights -> (C_in, C_out, 4, 4) of the transposed convolution."""
    for dim in (2, 3):
        a, b, c = kernel.unbind(dim)  # an even output sees a | b + c, an odd one a + b | c
        kernel = torch.stack([c, b + c, a + b, a], dim)
    return kernel.transpose(0, 1)


@trial("doubling")
def _try_doubling(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    where = QuickUpsample.WHERE
    x, w, b = (torch.randn(*shape).to(dtype) for shape in ((2, 16, 5, 5), (16, 16, 3, 3), (16,)))
    x = x.contiguous(memory_format=torch.channels_last)
    kernel = summed(w / 12).contiguous(memory_format=torch.channels_last)
    reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
    packed = reorder(kernel, *where, list(x.shape))
    product = torch.ops.mkldnn._convolution_transpose_pointwise
    quick = product(x, packed, b, *where, "none", [], "")
    doubled = F.interpolate(x.float(), scale_factor=2.0, mode="nearest")
    return quick, F.conv2d(doubled, w.float() / 12, b.float(), padding=1)
