"""Checks of what users pass in: each meets bad input with one clear message.

Inside the package nothing is checked again. While a model is traced, exported or vmapped, shapes
are checked and values are not; nor are those on a GPU, where reading one would stall it.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .scales import ScaleSchedule
    from .tokenizer import MultiScaleVQVAE
    from .transformer import VAR


def stray(x: Tensor, low: float, high: float) -> float | None:
    """A value of `x` outside [low, high], or None: there is none, or values are not to be read."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    vmapped = torch._C._functorch.is_functorch_wrapped_tensor(x)
    if vmapped or x.device.type != "cpu" or not x.numel():
        return None
    smallest, largest = x.min().item(), x.max().item()
    if not smallest >= low:  # NaN as well
        return smallest
    return None if largest <= high else largest


def is_integer(x: Tensor) -> bool:
    """Whether the numbers of `x` are integers of any width."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype is torch.bool)


def as_labels(labels: Tensor | Iterable[int], num_classes: int, look: bool = False) -> Tensor:
    """Labels as a LongTensor (B,), on the device of those given.

    Args:
        labels: integers in [0, num_classes], of any integer type; num_classes is the null class.
        look: check the values also of labels that lie on a GPU; they come back on the CPU.

    Raises:
        ValueError: on another shape, a type that is no integer, or a label out of range.
    """
    given = labels
    if not isinstance(labels, Tensor):
        try:
            labels = torch.from_numpy(np.array(list(labels) or np.zeros(0, np.int64)))
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"labels are {given!r}, expected a list of class numbers or an integer tensor (B,)"
            ) from None
    if labels.ndim != 1 or not is_integer(labels):
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, "
            f"expected integers of shape (B,)"
        )
    labels = (labels.cpu() if look else labels).long()
    wrong = stray(labels, 0, num_classes)
    if wrong is not None:
        raise ValueError(
            f"label {wrong} is outside the classes, expected 0 to {num_classes - 1}, "
            f"or {num_classes} for the null class"
        )
    return labels


def check_teacher_inputs(x: Tensor, expected: tuple[int, int, int]) -> None:
    """Raises a ValueError unless x is a tensor of the shape (B, L - h_1 w_1, C)."""
    shape = tuple(getattr(x, "shape", ()))
    if shape != expected:
        raise ValueError(
            f"teacher_inputs have shape {shape}, expected {expected}: take them from "
            f"MultiScaleQuantizer.teacher_inputs of one image a label"
        )


def check_images(images: Tensor, channels: int, height: int, width: int) -> None:
    """Raises a ValueError unless `images` is float, (B, channels, height, width), in [-1, 1]."""
    expected = f"expected a tensor (B, {channels}, {height}, {width}) for this tokenizer"
    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}, {expected}")
    if images.ndim != 4 or tuple(images.shape[1:]) != (channels, height, width):
        raise ValueError(f"images have shape {tuple(images.shape)}, {expected}")
    if not images.shape[0]:
        raise ValueError("images hold no image, expected at least one (B >= 1)")
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, expected floats in [-1, 1]: use varmini.data.to_float"
        )
    wrong = stray(images, -1.01, 1.01)
    if wrong is not None:
        raise ValueError(
            f"images hold {wrong:.3g}, expected [-1, 1]: divide bytes by 127.5 and subtract 1"
        )


def check_features(f: Tensor, channels: int, grid: tuple[int, int]) -> None:
    """Raises a ValueError unless f is a feature map (B, C, h_K, w_K)."""
    if f.ndim != 4 or tuple(f.shape[1:]) != (channels, *grid):
        raise ValueError(
            f"features have shape {tuple(f.shape)}, expected (B, {channels}, {grid[0]}, "
            f"{grid[1]}): the schedule must end at their size"
        )


def as_pyramid(
    tokens: Sequence[Tensor],
    schedule: ScaleSchedule,
    vocab_size: int | None = None,
    num_scales: int | None = None,
) -> list[Tensor]:
    """The first maps of a token pyramid as LongTensors (B, h_k, w_k).

    Args:
        tokens: maps of any integer type.
        vocab_size: also check that every token lies in [0, vocab_size).
        num_scales: how many maps to take; None for all K, which must then be there.

    Raises:
        ValueError: on maps that do not fit the schedule, or tokens outside the codebook.
    """
    count = len(schedule) if num_scales is None else num_scales
    if not 1 <= count <= len(schedule):
        raise ValueError(f"num_scales is {num_scales}, expected 1 to {len(schedule)}")
    several = not isinstance(tokens, Tensor)
    if not several or len(tokens) < count or (num_scales is None and len(tokens) > count):
        given = f"{len(tokens)} maps" if several else f"a tensor {tuple(tokens.shape)}"
        raise ValueError(f"tokens are {given}, expected a list of {count} maps for {schedule}")
    maps = [m if isinstance(m, Tensor) else torch.as_tensor(m) for m in tokens[:count]]
    for k, (map_, (h, w)) in enumerate(zip(maps, schedule.grids), start=1):
        if map_.ndim != 3 or tuple(map_.shape[1:]) != (h, w):
            raise ValueError(f"token map {k} has shape {tuple(map_.shape)}, expected (B, {h}, {w})")
        if map_.shape[0] != maps[0].shape[0]:
            raise ValueError(
                f"token map {k} holds {len(map_)} images, expected {len(maps[0])} as map 1"
            )
        if not is_integer(map_):
            raise ValueError(f"token map {k} is {map_.dtype}, expected integers: use .long()")
        wrong = None if vocab_size is None else stray(map_.long(), 0, vocab_size - 1)
        if wrong is not None:
            raise ValueError(f"token map {k} holds {wrong}, expected tokens in [0, {vocab_size})")
    return [map_.long() for map_ in maps]


def check_filter(top_k: int, top_p: float) -> None:
    """Raises a ValueError unless top_k and top_p are what `filter_logits` takes."""
    if not isinstance(top_k, numbers.Integral) or not isinstance(top_p, numbers.Real):
        raise ValueError(
            f"top_k is {top_k!r} and top_p {top_p!r}, expected an integer and a number"
        )
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected 0 (keep all) or a positive number of tokens")
    if not 0 <= top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a probability in [0, 1] (0 or 1 keeps all)")


def check_drawing(
    var: VAR, tok: MultiScaleVQVAE, cfg: float, top_k: int, top_p: float, seed: int | None
) -> None:
    """Raises a ValueError unless the models fit each other and the rest is in range."""
    if not (hasattr(var, "new_cache") and hasattr(tok, "decode_features")):
        raise ValueError(
            f"models are a {type(var).__name__} and a {type(tok).__name__}, expected a VAR, then a "
            f"MultiScaleVQVAE; of a wrapper give its .module"
        )
    reads = var.schedule, var.config.vocab_size, var.config.code_channels
    writes = tok.schedule, tok.vocab_size, tok.config.code_channels
    if reads != writes:
        raise ValueError(
            f"the transformer reads {reads[0]}, {reads[1]} codes of {reads[2]} channels, but the "
            f"tokenizer writes {writes[0]}, {writes[1]} codes of {writes[2]}: "
            f"load a pair trained together"
        )
    if var.training or tok.training:
        raise ValueError("a model is in training mode: call .eval() on both before sampling")
    if not isinstance(cfg, numbers.Real) or not 0 <= cfg < float("inf"):
        raise ValueError(f"cfg is {cfg}, expected a guidance strength of 0 (none) or more")
    if seed is not None and not (isinstance(seed, numbers.Integral) and 0 <= seed < 2**32):
        raise ValueError(f"seed is {seed}, expected an integer from 0 to 2^32 - 1, or None")
    check_filter(top_k, top_p)


def as_mask(mask: Tensor, images: Tensor) -> Tensor:
    """A mask of in-painting as bool (B, 1, H, W).

    Args:
        mask: bool (H, W), (B, H, W) or (B, 1, H, W), True where a picture is to be drawn.

    Raises:
        ValueError: on another shape or type.
    """
    batch, (height, width) = len(images), images.shape[2:]
    shapes = [(height, width), (batch, height, width), (batch, 1, height, width)]
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask is a {type(mask).__name__}, expected a bool tensor (H, W)")
    if mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, expected bool "
            f"{shapes[0]} or {shapes[1]}, True where a picture is to be drawn"
        )
    mask = mask[:, 0] if mask.ndim == 4 else mask
    return mask.expand(batch, height, width)[:, None]
