"""The golden case: official models with random weights, and what the official code made of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from varmini import VAR, MultiScaleVQVAE
from varmini.official import load_official

FOLDER = Path(__file__).resolve().parent / "golden"
SIZES = (1, 2, 3, 4)


@cache
def gold() -> dict[str, Tensor]:
    """Inputs and expected outputs, integers as int64."""
    tensors = load_file(FOLDER / "gold.safetensors")
    return {k: v if v.is_floating_point() else v.long() for k, v in tensors.items()}


@cache
def official_vae() -> dict[str, Tensor]:
    """The tokenizer under its official names."""
    backbone = load_file(FOLDER / "vae_backbone.safetensors")
    return {k: v.float() for k, v in backbone.items()} | load_file(FOLDER / "vae.safetensors")


@cache
def official_var() -> dict[str, Tensor]:
    """The transformer under its official names."""
    return load_file(FOLDER / "var.safetensors")


@cache
def models() -> tuple[MultiScaleVQVAE, VAR]:
    """Both as ours."""
    return load_official(official_vae(), official_var(), sizes=SIZES)
