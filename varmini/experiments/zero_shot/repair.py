"""Error repair, measured: do later maps mend a mistake in an earlier one?

The talks on VAR say so. Errors are mean squares; a mean comes with its standard error over images.

Maps before `scale` are the image's own in all arms, and the random numbers are the same:
  clean      that map is the image's own, too; the model draws the later ones
  corrected  that map is corrupted; the model draws the later ones, seeing it
  unseen     that map is corrupted; the later ones are drawn without sight of the corruption: in
             place of wrong tokens the model has drawn its own (exact, for tokens of a map are
             independent given the coarser ones)
  ignored    that map is corrupted; the later ones are those of "clean"
And what later maps could mend, by one who knows the image:
  own        all maps are the image's own
  stored     that map is corrupted; the later ones are the image's own
  oracle     that map is corrupted; the tokenizer codes the later ones anew

Damage is the error of an arm above that of "clean", in features (against the encoder's) and in
pixels; repair = 1 - damage(corrected) / damage(ignored): 1 is mended, 0 is no help, below 0 is
worse than no correction. For the oracle "own" and "stored" stand for "clean" and
"ignored". Of a raster AR it is 0 by construction: no later token adds anything where an earlier one
is.

"Ignored" is an unfair control: its maps were drawn after the true map, and so hold details that
"corrected" cannot know. "Unseen" is the fair one: gain = error(unseen) - error(corrected), image by
image with its 95 % interval, and above 0 is mending. `self_correction.py` does the same for bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...evaluation.statistics import interval
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.tables import Row
from .painting import DRAWN, corrupt, draw_with, mean_and_error, right, squared_error


@torch.no_grad()
def reencode(tok: MultiScaleVQVAE, features: Tensor, forced: list[Tensor]) -> list[Tensor]:
    """Algorithm 1 with its first maps forced: later maps code what these leave of the features.

    The most that the later maps can mend, greedily, by one who knows the image.
    """
    quantizer, tokens = tok.quantizer, list(forced)
    f_hat = quantizer.decode(forced) if forced else torch.zeros_like(features)
    for k in range(len(forced), len(tok.schedule)):
        z = quantizer.down(features - f_hat, k)
        h, w = z.shape[2:]
        codes = z.permute(0, 2, 3, 1).reshape(-1, quantizer.channels)
        tokens.append(quantizer.lookup_tokens(codes).view(-1, h, w))
        f_hat = f_hat + quantizer.contribution(k, quantizer.embed(tokens[-1]))
    return tokens


@torch.no_grad()
def repair(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    scale: int,
    share: float,
    *,
    batch_size: int = 50,
    **options: Any,
) -> Row:
    """Corrupts a share of one map of each image and measures all arms (see the module).

    scale: the map to corrupt, from 1 to K - 1. share: of its tokens, in (0, 1], rounded up.
    options: what differs from `painting.DRAWN`.
    """
    features, own, options = tok.features(images), tok.encode(images), DRAWN | options
    generator = torch.Generator().manual_seed(options["seed"])
    wrong = corrupt(own[scale - 1].cpu(), share, tok.vocab_size, generator).to(images.device)
    damaged = [*own[: scale - 1], wrong]

    def draw(*forced: Tensor) -> list[Tensor]:
        return draw_with(var, tok, labels, list(forced), batch_size=batch_size, **options)

    before, true = own[: scale - 1], own[scale - 1]
    clean, corrected = draw(*own[:scale]), draw(*damaged)
    unseen = draw(*before, torch.where(wrong == true, true, draw(*before)[scale - 1]))
    arms = {
        "clean": clean,
        "corrected": corrected,
        "unseen": [*damaged, *unseen[scale:]],
        "ignored": [*damaged, *clean[scale:]],
        "own": own,
        "stored": [*damaged, *own[scale:]],
        "oracle": reencode(tok, features, damaged),
    }
    changed = (wrong != own[scale - 1]).float().mean().item()
    row: Row = {"scale": scale, "share": share, "changed": changed, "n": len(images)} | options
    errors: dict[str, dict[str, Tensor]] = {"features": {}, "pixels": {}}
    for name, tokens in arms.items():
        drawn = tok.decode(tokens)
        errors["features"][name] = squared_error(tok.quantizer.decode(tokens), features)
        errors["pixels"][name] = squared_error(drawn, images)
        for space, values in errors.items():
            row |= mean_and_error(values[name], f"{space}_{name}")
        row |= mean_and_error(right(classifier, drawn, labels), f"accuracy_{name}")
    for space, values in errors.items():
        for best, worst, arm in (("clean", "ignored", "corrected"), ("own", "stored", "oracle")):
            row |= repaired(values[best], values[worst], values[arm], f"{arm}_{space}")
        row |= paired(values["unseen"] - values["corrected"], f"gain_{space}")
    return row


def repaired(clean: Tensor, ignored: Tensor, corrected: Tensor, name: str) -> dict[str, float]:
    """1 - sum(corrected - clean) / sum(ignored - clean) with its standard error (delta method).

    clean, ignored, corrected: (n,) errors of the same images.
    """
    damage, left = (ignored - clean).double(), (corrected - clean).double()
    ratio = (left.mean() / damage.mean()).item()
    # Var(left / damage) = Var(left - ratio damage) / (n mean(damage)^2)
    spread = (left - ratio * damage).std() / math.sqrt(len(damage)) / damage.mean().abs()
    return {f"repair_{name}": 1 - ratio, f"repair_{name}_se": spread.item()}


def paired(gain: Tensor, name: str) -> dict[str, float]:
    """{name: mean of (n,), name_low, name_high: its 95 % interval by Student's t, n >= 2}."""
    low, high = interval(gain.tolist())
    return {name: gain.mean().item(), f"{name}_low": low, f"{name}_high": high}
