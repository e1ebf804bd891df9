"""What one can install from the package index for the same job; `pip install -e '.[bench]'`."""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.machine import autocast, device
from .measure import Run
from .shapes import Shape

STEPS = 50
"""Denoising steps of DiT, DDIM."""


def diffusers_dit(shape: Shape, batch: int) -> tuple[dict[str, Run], str]:
    """Guided drawing by diffusers' DiT of the same width and depth on as fine a grid of tokens.

    Returns:
        The run by name; or none, and why.
    """
    try:
        import diffusers
    except ImportError as error:
        return {}, f"diffusers' DiT: {error.name} is not installed"
    side = 2 * shape.sizes[-1]
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=shape.depth,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=shape.depth,
        sample_size=side,
        patch_size=2,
    )
    dit = dit.eval().to(device())
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    labels = torch.tensor([0] * batch + [1000] * batch, device=device())

    def denoise() -> None:
        x = torch.randn(batch, 4, side, side, device=device())
        with torch.no_grad(), autocast():
            for t in scheduler.timesteps:
                at = t.expand(2 * batch).to(device())
                noise = dit(torch.cat([x, x]), timestep=at, class_labels=labels).sample[:, :4]
                own, other = noise.float().chunk(2)
                # Guidance as in DiT: u + s (c - u)
                x = scheduler.step(other + 1.5 * (own - other), t, x).prev_sample

    name = f"diffusers {diffusers.__version__}: DiT, {STEPS} DDIM steps"
    return {name: denoise}, ""


def residual_vq(shape: Shape, f: Tensor) -> tuple[dict[str, Run], str]:
    """The residual VQ of vector-quantize-pytorch: K layers with one codebook.

    Args:
        f: (B, h_K w_K, C).

    Returns:
        The run by name; or none, and why.
    """
    try:
        from importlib.metadata import version

        from vector_quantize_pytorch import ResidualVQ
    except ImportError as error:
        return {}, f"vector-quantize-pytorch: {error.name} is not installed"
    k = len(shape.sizes)
    torch.manual_seed(0)
    layer = ResidualVQ(
        dim=f.shape[2], num_quantizers=k, codebook_size=shape.vocab_size, shared_codebook=True
    )
    layer = layer.eval().to(device())

    def quantize() -> None:
        with torch.no_grad():
            layer(f)

    number = version("vector-quantize-pytorch")
    return {f"vector-quantize-pytorch {number}: ResidualVQ, {k} full-size layers": quantize}, ""
