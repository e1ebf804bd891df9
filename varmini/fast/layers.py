"""Layers with a quick form: linear, convolution, and doubling a map's size.

Each is torch's own layer by its weights and its result. In bf16 on a CPU it goes through oneDNN's
operators, which torch.compile uses too; where this torch lacks them, the plain form runs. `lay_out`
prepares the copy of a finished model that `precision.ready` makes. What each form gains is measured
by `varmini bench`: results/bench/forms.csv.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@functools.cache
def _packs() -> bool:
    """Whether this torch has oneDNN's products with weights laid out ahead (Inductor's)."""
    names = ("_linear_pointwise", "_convolution_pointwise", "_convolution_transpose_pointwise")
    known = all(hasattr(torch.ops.mkldnn, name) for name in names)
    return torch.backends.mkldnn.is_available() and known


class Linear(nn.Linear):
    """x W^T + b, as `nn.Linear`, and with GELU where asked for; quick in bf16 on a CPU."""

    packed = False
    """Whether `weight` is in oneDNN's order, in a copy that `ready` made."""

    def forward(self, x: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
        bias = self.bias if bias is None else bias
        if self.packed:
            # Weights laid out once, GELU in the same pass over memory (forms.csv).
            form = ("gelu", [], "tanh") if gelu else ("none", [], "")
            return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.weight, bias, *form)
        if _quick(x) and bias is not None:
            y = _Product.apply(x, self.weight, bias)
            if gelu and y.requires_grad:
                return _GELU.apply(y)
        else:
            y = F.linear(x, self.weight, bias)
        return F.gelu(y, approximate="tanh") if gelu else y

    def lay_out(self, device: str) -> None:
        """Replaces the weights by bf16 ones, on a CPU in the order that the product reads them."""
        weight, bias, self.packed = self.weight.bfloat16(), self.bias, device == "cpu" and _packs()
        del self.weight
        self.weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight
        )
        if bias is not None:
            del self.bias
            self.bias = bias.bfloat16()


def _quick(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not torch.compiler.is_compiling()
        and _packs()
    )


class _Product(torch.autograd.Function):
    """x W^T + b in bf16 by oneDNN, the bias in the same pass over memory.

    Gradients as under autocast: products in bf16, those of W and b handed on in float32.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.kinds = x.dtype, weight.dtype, bias.dtype
        x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        with torch.autocast("cpu", enabled=False):
            grads = grad @ weight, rows.mT @ x.reshape(-1, x.shape[-1]), rows.sum(0)
        return tuple(g.to(kind) for g, kind in zip(grads, ctx.kinds))


class _GELU(torch.autograd.Function):
    """GELU in tanh form, with its slope computed along the way: backward is one product.

    gelu(x) = x s with s = sigmoid(v), v = x (a + b x^2), a = sqrt(8 / pi), b = 0.044715 a;
    slope = s + x s (1 - s) (a + 3 b x^2). In float32, by pieces that stay in the core's cache.
    """

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:
        y, slope = torch.empty_like(z), torch.empty_like(z)
        a = torch.tensor(math.sqrt(8 / math.pi))
        b = 0.044715 * a.item()
        rows = max(1, 2**17 // z.shape[-1])
        for part, at_y, at_slope in zip(*(t.flatten(0, -2).split(rows) for t in (z, y, slope))):
            x = part.float()
            s = torch.addcmul(a, x, x, value=b).mul_(x).sigmoid_()
            r = torch.addcmul(a, x, x, value=3 * b)
            at_y.copy_(x.mul_(s))
            at_slope.copy_(x.addcmul_(x, s, value=-1).mul_(r).add_(s))
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


class Conv(nn.Conv2d):
    """`nn.Conv2d`; in a copy that `ready` made, weights stay in oneDNN's order."""

    packed = False
    """Whether `weight` is to be, or is, in the order that suits the first map that comes."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """The convolution of x, and `plus` added in the same pass over memory."""
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

    def lay_out(self, device: str) -> None:
        """Replaces the weights by bf16 ones in the order that the product reads them."""
        weight, bias = self.weight.bfloat16(), self.bias.bfloat16()
        self.packed = device == "cpu" and _packs()
        del self.weight, self.bias
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias


class Doubling(nn.Module):
    """Doubles a map by repeating pixels, then convolves it 3x3.

    Of the nine products for an output pixel only four see different inputs, so both together are
    one transposed convolution with 4x4 summed weights: 4/9 of the work.
    """

    WHERE = [1, 1], [0, 0], [2, 2], [1, 1], 1
    """Padding, padding of the output, stride, dilation, groups of the transposed convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)
        self.kernel: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        if self.kernel is None:
            kernel = self.summed()
            return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)
        x = x.to(self.conv.bias.dtype)
        if not self.kernel.is_mkldnn:
            reorder = torch.ops.mkldnn._reorder_convolution_transpose_weight
            self.kernel = reorder(self.kernel, *self.WHERE, list(x.shape))
        product = torch.ops.mkldnn._convolution_transpose_pointwise
        return product(x, self.kernel, self.conv.bias, *self.WHERE, "none", [], "")

    def summed(self) -> Tensor:
        """(C_out, C_in, 3, 3) weights -> (C_in, C_out, 4, 4) of the transposed convolution."""
        kernel = self.conv.weight
        for dim in (2, 3):
            a, b, c = kernel.unbind(dim)  # an even output sees a | b + c, an odd one a + b | c
            kernel = torch.stack([c, b + c, a + b, a], dim)
        return kernel.transpose(0, 1)

    def lay_out(self, device: str) -> None:
        """Keeps the summed weights in bf16."""
        if device == "cpu" and _packs():
            kernel = self.summed().bfloat16()
            self.kernel = kernel.contiguous(memory_format=torch.channels_last)
