"""Copies of finished models with their weights laid out ahead, as products read them.

They are kept beside the module, not in it: saving, pickling and copying never see them. They are
made anew when a weight changed, and dropped by `forget` and with the module.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .trial import works

_COPIES: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()
_without_copies: list[bool] = []


def ready(module: nn.Module) -> nn.Module:
    """A copy of a quick module with its weights laid out ahead, where that works; else `module`.

    Casting and laying out weights at every call takes half the time of a small batch. The copy
    holds products' weights in the type of the surrounding autocast (bfloat16, or float32 without
    one) and shares the rest.
    """
    if vars(module).get("is_copy") or _without_copies:
        return module
    # All of this stands before every draw, so it is kept short.
    parts = list(module.modules())
    tensors = [p for part in parts for p in part._parameters.values() if p is not None]
    device = tensors[0].device.type if tensors else "cpu"
    dtype = _dtype(device)
    if (
        dtype is None
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not all(not part.training and is_untouched(part) for part in parts)
        or not all(type(p) in (nn.Parameter, Tensor) and not p.is_inference() for p in tensors)
    ):
        return module
    # What changes when a weight does: identity, memory, version.
    marks = [(id(p), p.data_ptr(), p._version, p.shape) for p in tensors]
    kept = _COPIES.get(module)
    if kept is None or kept[0] != (marks, dtype) or kept[2] != _numbers(kept[1]):
        forget(module)
        if not all(_may_be_laid_out(p, device) for p in tensors):
            return module
        # Tensors are shared with the copy first, then those of products are replaced.
        shared = {id(t): t for t in (*tensors, *module.buffers())}
        made = copy.deepcopy(module, shared)
        with torch.no_grad():
            for part in made.modules():
                part.is_copy = True
                if hasattr(part, "lay_out"):
                    part.lay_out(device, dtype)
        # Views of some 32 numbers a weight; none on a GPU, which would stall.
        some = [_some(p) for p in tensors if device == "cpu"]
        kept = _COPIES[module] = (marks, dtype), some, _numbers(some), made
    return kept[3]


@contextlib.contextmanager
def without_copies() -> Iterator[None]:
    """No copies inside: torch's counter of FLOPs does not know the products of laid-out weights."""
    _without_copies.append(True)
    try:
        yield
    finally:
        _without_copies.pop()


def forget(module: nn.Module) -> None:
    """Drops the copies that `ready` made of `module` and of its parts."""
    for part in module.modules():
        _COPIES.pop(part, None)


def _dtype(device: str) -> torch.dtype | None:
    """The type of products around here, if weights can be laid out for it."""
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return dtype if dtype is torch.bfloat16 else None
    return torch.float32 if device == "cpu" and works("linear", torch.float32) else None


def is_untouched(module: nn.Module) -> bool:
    """Nobody watches it, has put something in its place, or parametrised it."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return not (hooks or "forward" in vars(module) or hasattr(module, "parametrizations"))


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
