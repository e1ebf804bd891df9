"""`quicken(model)`: the quick forms in place of the plain ones, by one table."""

from __future__ import annotations

import copy
import weakref

import torch
from torch import nn

from ..model.autoencoder import NormSiLU, ResBlock, SpatialAttention, Upsample
from ..model.quantizer import MultiScaleQuantizer
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR, Attention, Block
from .copies import is_untouched
from .layers import (
    QuickConv,
    QuickLinear,
    QuickNormSiLU,
    QuickResBlock,
    QuickSpatialAttention,
    QuickUpsample,
)
from .tokenizer import QuickQuantizer, QuickVQVAE
from .transformer import QuickAttention, QuickBlock, QuickVAR
from .trial import TRIALS, works

QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuickLinear,
    nn.Conv2d: QuickConv,
    NormSiLU: QuickNormSiLU,
    ResBlock: QuickResBlock,
    SpatialAttention: QuickSpatialAttention,
    Upsample: QuickUpsample,
    MultiScaleQuantizer: QuickQuantizer,
    MultiScaleVQVAE: QuickVQVAE,
    Attention: QuickAttention,
    Block: QuickBlock,
    VAR: QuickVAR,
}
"""From plain class to quick class; each holds the plain one's weights under the same names."""


def quicken(model: nn.Module, *, in_halves: bool = False) -> nn.Module:
    """Puts the quick forms into `model`, which it returns: same parameters, names and results.

    Each is tried on this machine before it is used; where it does not run, or does not agree, the
    plain form runs. Classes that the table does not name stay as they are.

    Args:
        in_halves: train a VAR or a tokenizer on two halves of each batch at once, on a CPU
            (`halves.py`). For loops that ask once for the gradients of a loss.
    """
    for name in TRIALS:  # here and not in the first step, which somebody may count or trace
        for dtype in (torch.float32, torch.bfloat16):
            works(name, dtype)
    for part in model.modules():
        part.__class__ = QUICK.get(type(part), type(part))
    for part in model.modules():
        if isinstance(part, QuickVAR):
            part.quickened()
        if isinstance(part, (QuickVAR, QuickVQVAE)):
            part.in_halves = in_halves
    return model


_TWINS: weakref.WeakKeyDictionary[nn.Module, tuple[list, nn.Module]] = weakref.WeakKeyDictionary()


def twin(model: nn.Module) -> nn.Module:
    """A quick copy of a plain model that shares its tensors, for drawing; a quick model itself.

    Also the plain model itself where somebody watches a part of it (hooks) or has put something in
    its place. The copy is kept beside the model and goes with it.
    """
    parts = list(model.modules())
    if not any(type(part) in QUICK for part in parts) or not all(map(is_untouched, parts)):
        return model
    tensors = [*model.parameters(), *model.buffers()]
    marks = [(id(t), t.data_ptr(), t.dtype) for t in tensors] + [model.training]
    kept = _TWINS.get(model)
    if kept is None or kept[0] != marks:
        made = quicken(copy.deepcopy(model, {id(t): t for t in tensors}))
        kept = _TWINS[model] = marks, made
    return kept[1]
