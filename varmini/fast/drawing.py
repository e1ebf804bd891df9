"""`varmini.sample`: that of `model.sampler`, by quick forms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..model.checks import as_labels, check_drawing
from ..model.sampler import Noise, generate
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime.machine import autocast, check_memory
from .copies import ready
from .filters import filter_logits
from .halves import by_halves
from .quicken import twin

CACHE_BYTES = 1 << 30
"""Memory for keys and values that decides how many images are drawn together."""


def sample(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor | Iterable[int],
    *,
    cfg: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    seed: int | None = None,
    smooth: bool = False,
    return_tokens: bool = False,
    batch_size: int | None = None,
    first: int = 0,
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """Draws one picture a label, coarse to fine, one step a scale (VAR, section 3.2).

    Image i draws from its own random stream, a function of (seed, i) alone, so a batch may be split
    in any way; the tokens then agree as far as the machine's matrix products do not depend on the
    batch. Arithmetic follows the surrounding `torch.autocast`. Without one it is bfloat16 where the
    machine is quick at it (`runtime.machine`; VARMINI_PRECISION=float32 turns that off), but
    float32 for greedy drawing, top_k=1, and the models' own type where they were cast.

    Args:
        labels: (B,) classes in [0, num_classes), or num_classes for "no class".
        cfg: guidance at the last scale, ramped from 0 at the first; 0 turns guidance off.
        top_k, top_p: see `filter_logits`; top_k=1 takes the likeliest token.
        seed: for repeatable pictures; None draws a fresh one.
        smooth: mix codes softly (`smoothed`): prettier pictures, but no longer true samples.
        return_tokens: also return the token pyramid.
        batch_size: images drawn together; None takes as many as a key-value cache of 1 GiB holds.
        first: number of the first image, where this is a part of a larger draw.

    Returns:
        Images (B, C, H, W) in [-1, 1]; with return_tokens also K LongTensors (B, h_k, w_k).

    Raises:
        ValueError: models that do not fit, an argument out of range, a batch too large for memory.
    """
    check_drawing(var, tok, cfg, top_k, top_p, seed)
    if seed is None and first:
        raise ValueError(f"first is {first} without a seed: a part of a draw needs the draw's seed")
    options = {"cfg": cfg, "top_k": top_k, "top_p": top_p, "smooth": smooth}
    labels = as_labels(labels, var.config.num_classes, look=True)
    base = int(torch.randint(2**32, ())) if seed is None else seed

    def drawn(at: int, part: Tensor) -> tuple[Tensor, list[Tensor]]:
        with arithmetic(var, greedy=top_k == 1):
            noise = Noise(base, first + at, len(part), part.device)
            scales = list(quick_generate(var, tok, part, noise, **options))
            images = twin(tok).decode_features(scales[-1][1]).clamp(-1, 1)
        return images, [tokens for tokens, _ in scales]

    pieces = []
    with torch.inference_mode():  # less to keep track of than without gradients alone
        for at, part in parts(var, labels, batch_size):
            pieces += by_halves(drawn, at, part)
    images, pyramids = zip(*pieces)
    images = torch.cat(images)  # copies, outside of that mode, so that a caller may train on them
    if not return_tokens:
        return images
    return images, [torch.cat(maps) for maps in zip(*pyramids)]


def quick_generate(
    var: VAR, tok: MultiScaleVQVAE, labels: Tensor, noise: Noise, **options
) -> Iterator[tuple[Tensor, Tensor]]:
    """`model.sampler.generate` by quick forms, in the caller's arithmetic."""
    return generate(ready(twin(var)), tok, labels, noise, keep=filter_logits, **options)


def arithmetic(var: VAR, greedy: bool) -> contextlib.AbstractContextManager:
    """The arithmetic of `sample` and `inpaint`: the caller's autocast, or ours without one.

    Greedy drawing is float32, so that its tokens do not hang on rounding.
    """
    kind, dtype = var.head.weight.device.type, var.head.weight.dtype
    theirs = torch.is_autocast_enabled(kind) or greedy or dtype is not torch.float32
    return contextlib.nullcontext() if theirs else autocast(kind)


def parts(var: VAR, labels: Tensor, batch_size: int | None) -> Iterator[tuple[int, Tensor]]:
    """Number of the first image and labels of every batch, on the model's device."""
    # Keys and values of both guidance halves, in float32.
    per_image = 2 * 2 * 4 * var.config.depth * var.config.width * var.schedule.num_tokens
    # ... and some six copies of the last scale's logits.
    per_image += 24 * max(var.schedule.tokens_per_scale) * var.config.vocab_size
    if batch_size is None:
        batch_size = min(256, max(1, CACHE_BYTES // per_image))
    elif batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1, or None")
    device = var.head.weight.device
    check_memory("images at a time", "batch_size", min(batch_size, len(labels)), per_image)
    for first in range(0, max(1, len(labels)), batch_size):
        yield first, labels[first : first + batch_size].to(device)
