"""The precision of matrix products."""

from __future__ import annotations

import contextlib
import functools
import os

import torch


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
