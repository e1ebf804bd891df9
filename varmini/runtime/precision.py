"""The precision of matrix products, and copies of finished models that are laid out for it."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


@functools.cache
def precision(device: str = "") -> torch.dtype:
    """The type for matrix products: bfloat16 where the machine has instructions for it.

    The environment variable VARMINI_PRECISION ("float32" or "bfloat16") overrides the probe.

    Args:
        device: "cpu" or "cuda"; "" for the GPU if there is one, else the CPU.

    Raises:
        ValueError: when the variable holds anything else.
    """
    asked = os.environ.get("VARMINI_PRECISION", "")
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if asked:
        if asked not in known:
            raise ValueError(f"VARMINI_PRECISION is {asked!r}, expected 'float32' or 'bfloat16'")
        return known[asked]
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device not in ("", "cpu"):
        return torch.float32
    abilities = torch.cpu.get_capabilities()
    fast = abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def autocast(device: str = "") -> contextlib.AbstractContextManager:
    """Runs matrix products in `precision()`; the weights stay float32."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if precision(device) is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device, precision(device))


def for_sampling(device: str, greedy: bool) -> contextlib.AbstractContextManager:
    """The arithmetic of `sample` and `inpaint`.

    A surrounding `torch.autocast` stays as it is. Without one, products run in `precision()`;
    greedy draws in float32, so that their tokens do not hang on rounding.
    """
    if torch.is_autocast_enabled(device) or greedy:
        return contextlib.nullcontext()
    return autocast(device)


@contextlib.contextmanager
def full_float32(device: str) -> Iterator[None]:
    """No autocast and no TF32 convolutions (cuDNN's default for float32 on a GPU) inside.

    Matrix products follow `torch.set_float32_matmul_precision`, by default full float32 as well.
    """
    if device == "cpu":
        with torch.autocast(device, enabled=False):
            yield
        return
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        convolutions.fp32_precision = before


# -------------------------------------------------------------------------- copies of frozen models

_COPIES: weakref.WeakKeyDictionary[nn.Module, tuple[list, list[np.ndarray], bytes, nn.Module]]
_COPIES = weakref.WeakKeyDictionary()
"""Of each module: marks and some numbers of its weights when it was copied, and the copy."""


def ready(module: nn.Module) -> nn.Module:
    """`module`, or under bf16 autocast without gradients a copy with bf16 weights laid out ahead.

    Casting and laying out weights at every call takes half the time of a small batch. The copy
    holds products' weights in bf16 (half of the model's memory) and shares the rest. It is kept
    beside the module, not in it: saving, pickling and copying never see it. It is made anew when
    a weight changed, and dropped by `forget` and with the module.
    """
    # All of this stands before every draw, so it is kept short.
    parts = list(module.modules())
    tensors = [p for part in parts for p in part._parameters.values() if p is not None]
    device = tensors[0].device.type if tensors else "cpu"
    if (
        torch.is_grad_enabled()
        or not torch.is_autocast_enabled(device)
        or torch.get_autocast_dtype(device) is not torch.bfloat16
        or torch.compiler.is_compiling()
        or not all(_is_plain(part) for part in parts)
        or not all(type(p) in (nn.Parameter, Tensor) and not p.is_inference() for p in tensors)
    ):
        return module
    # What changes when a weight does: identity, memory, version.
    marks = [(id(p), p.data_ptr(), p._version, p.shape) for p in tensors]
    kept = _COPIES.get(module)
    if kept is None or kept[0] != marks or kept[2] != _numbers(kept[1]):
        forget(module)
        if not all(_may_be_laid_out(p, device) for p in tensors):
            return module
        # Tensors are shared with the copy first, then those of products are replaced.
        shared = {id(t): t for t in (*tensors, *module.buffers())}
        twin = copy.deepcopy(module, shared)
        with torch.no_grad():
            for part in twin.modules():
                if hasattr(part, "lay_out"):
                    part.lay_out(device)
        # Views of some 32 numbers a weight; none on a GPU, which would stall.
        some = [_some(p) for p in tensors if device == "cpu"]
        kept = _COPIES[module] = marks, some, _numbers(some), twin
    return kept[3]


def forget(module: nn.Module) -> None:
    """Drops the copies that `ready` made of `module` and of its parts."""
    for part in module.modules():
        _COPIES.pop(part, None)


def _is_plain(module: nn.Module) -> bool:
    """In evaluation mode, and nobody watches it or has put something in its place."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not (module.training or hooks or "forward" in vars(module))


def _may_be_laid_out(p: Tensor, device: str) -> bool:
    dense = p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last)
    return dense and p.device.type == device and p.dtype is torch.float32


def _some(p: Tensor) -> np.ndarray:
    """Some 32 numbers of a dense tensor, as a view."""
    flat = p.detach().as_strided((p.numel(),), (1,))  # in the order of memory
    # By DLPack, because `Tensor.numpy` would forbid the owner to resize the memory for good.
    return np.from_dlpack(flat[:: max(1, p.numel() // 32)])


def _numbers(some: list[np.ndarray]) -> bytes:
    """The values of these views: they tell of changes through `.data`, which no version counts."""
    return np.concatenate(some).tobytes() if some else b""
