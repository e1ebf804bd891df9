"""`varmini.inpaint`: the sampling loop with some tokens forced (`model.sampler.forced`)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..model.checks import as_labels, as_mask, check_drawing
from ..model.sampler import RULES, Noise, Rule, forced
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from .drawing import arithmetic, parts, quick_generate
from .quicken import twin


def inpaint(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    mask: Tensor,
    labels: Tensor | Iterable[int] | None = None,
    *,
    cfg: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    seed: int | None = None,
    smooth: bool = False,
    rule: Rule = "painted",
    batch_size: int | None = None,
) -> Tensor:
    """Redraws the masked part of images; everything else is forced to their own tokens.

    The protocol is that of `model.sampler.forced` (VAR, appendix B). Kept tokens were coded from
    the whole image: coarse ones say something of what is under the mask. By "painted" and "touched"
    one masked pixel redraws a token of the last map or more, and a mask of everything is `sample`;
    not by "paper". Encodes in the caller's arithmetic, draws and decodes in that of `sample`.

    Args:
        images: (B, C, H, W) in [-1, 1].
        mask: (H, W), (B, H, W) or (B, 1, H, W) bool, True where a picture is to be drawn.
        labels: (B,) classes for class-conditional editing; None for the null class.
        cfg, top_k, top_p, seed, smooth, batch_size: as in `sample`.
        rule: which tokens a mask of pixels draws: "painted", "touched" or "paper", see
            `model.sampler.kept_tokens`.

    Returns:
        Images (B, C, H, W) in [-1, 1], decoded from the mixed tokens.

    Raises:
        ValueError: on a mask of another shape or type, an unknown rule, and as `sample` does.
    """
    check_drawing(var, tok, cfg, top_k, top_p, seed)
    tok.check_images(images)
    mask = as_mask(mask, images)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {', '.join(RULES)}")
    labels = [var.config.num_classes] * len(images) if labels is None else labels
    labels = as_labels(labels, var.config.num_classes, look=True)
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images: expected one each")
    options = {"cfg": cfg, "top_k": top_k, "top_p": top_p, "smooth": smooth}
    drawn = []
    with torch.no_grad():
        for at, part in parts(var, labels, batch_size):
            rows = slice(at, at + len(part))
            replace = forced(tok, images[rows], mask[rows], rule)
            with arithmetic(var, greedy=top_k == 1):
                noise = Noise(seed, at, len(part), part.device)
                *_, (_, f_hat) = quick_generate(var, tok, part, noise, replace=replace, **options)
                drawn.append(twin(tok).decode_features(f_hat).clamp(-1, 1))
    return torch.cat(drawn)
