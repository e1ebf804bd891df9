"""Drawing pictures scale by scale (section 3.2), and in-painting (appendix B).

This is the plain form; `varmini.sample` and `varmini.inpaint` are its quick forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import as_labels, check_drawing
from .filters import draw, filter_logits, guide, smoothed
from .quantizer import at_least_float32
from .tokenizer import MultiScaleVQVAE
from .transformer import VAR


class Noise:
    """The random numbers of a batch: image i has its own generator, so batches may be split.

    Args:
        seed: of the whole draw; None for a fresh one.
        first: the number, in the whole draw, of this batch's first image.
        count: images in this batch.
        device: where the numbers are needed; they are drawn on the CPU, the same on any machine.
    """

    def __init__(self, seed: int | None, first: int, count: int, device: torch.device) -> None:
        base = int(torch.randint(2**32, ())) if seed is None else int(seed)
        # A large odd stride keeps the streams of (seed, image) pairs apart.
        seeds = [(base * 1_000_003 + first + i) % 2**63 for i in range(count)]
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """(count, *shape) numbers, uniform in [0, 1)."""
        rows = [torch.rand(shape, generator=g, dtype=torch.float32) for g in self.generators]
        rows = torch.stack(rows) if rows else torch.empty(0, *shape)
        return rows.to(self.device, non_blocking=True)  # waiting would stall a GPU at every scale

    def gumbel(self, *shape: int) -> Tensor:
        """(count, *shape) standard Gumbel numbers, -log(-log u)."""
        u = self.uniform(*shape).clamp(min=1e-20)
        return -(-u.log()).clamp(min=1e-20).log()


Replace = Callable[[int, Tensor, Tensor], Tensor]
"""replace(k, codes, f_hat) -> codes: forces some of a scale's (B, C, h_k, w_k) codes."""


@torch.no_grad()
def generate(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    noise: Noise,
    *,
    cfg: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    smooth: bool = False,
    replace: Replace | None = None,
    keep: Callable[[Tensor, int, float], Tensor] = filter_logits,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The sampling loop itself: yields (tokens (B, h_k, w_k), f_hat (B, C, H, W)) of every scale.

    Args:
        labels: (B,) LongTensor in [0, num_classes]; num_classes is the null class.
        noise: the batch's random numbers.
        cfg: guidance at the last scale, ramped from 0 at the first; 0 turns guidance off.
        top_k, top_p: see `filter_logits`; top_k=1 takes the likeliest token.
        smooth: mix codes softly (`smoothed`): prettier pictures, but no longer true samples.
        replace: called before a scale is added to f_hat (in-painting).
        keep: rules out unlikely tokens; `filter_logits` or what gives the same.
    """
    quantizer, num_scales, guided = tok.quantizer, len(tok.schedule), cfg != 0
    if guided:  # the same pictures twice: with their class and with the null class
        labels = torch.cat([labels, torch.full_like(labels, var.config.num_classes)])
    x, modulations, head = var.condition(labels)
    cache = var.new_cache(len(labels))
    f_hat = at_least_float32(quantizer.codebook.weight).new_zeros(
        len(labels) // (1 + guided), quantizer.channels, *tok.schedule.grids[-1]
    )
    for k, (h, w) in enumerate(tok.schedule.grids):
        hidden = var.hidden(k, x, modulations, head, cache)
        if guided:  # the head is linear, so guiding what it reads guides the logits
            hidden = guide(*hidden.float().chunk(2), k, num_scales, cfg).to(hidden.dtype)
        logits = keep(var.head(hidden).float(), top_k, top_p)  # (B, h w, V)
        # Given the coarser scales, the tokens of a scale are drawn independently of each other.
        tokens = draw(logits, noise.uniform(h * w)).unflatten(1, (h, w))
        codes = quantizer.embed(tokens)  # (B, C, h, w)
        if smooth:
            gumbel = noise.gumbel(h * w, tok.vocab_size)
            mixed = smoothed(logits, gumbel, quantizer.codebook.weight, k, num_scales)
            codes = mixed.transpose(1, 2).unflatten(2, (h, w))
        if replace is not None:
            codes = replace(k, codes, f_hat)
        f_hat = f_hat + quantizer.contribution(k, codes)
        yield tokens, f_hat
        if k + 1 < num_scales:
            x = var.word(quantizer.next_input(f_hat, k + 1).to(var.word.weight.dtype))
            x = torch.cat([x, x]) if guided else x


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
    first: int = 0,
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """Draws one picture a label, coarse to fine, one step a scale.

    Args:
        labels: (B,) classes in [0, num_classes), or num_classes for "no class".
        cfg, top_k, top_p, smooth: as in `generate`.
        seed, first: as in `Noise`; image i of a draw is a function of (seed, i) alone.
        return_tokens: also return the token pyramid.

    Returns:
        Images (B, C, H, W) in [-1, 1]; with return_tokens also K LongTensors (B, h_k, w_k).

    Raises:
        ValueError: when the two models do not fit, or an argument is out of range.
    """
    check_drawing(var, tok, cfg, top_k, top_p, seed)
    device = var.head.weight.device
    labels = as_labels(labels, var.config.num_classes, look=True).to(device)
    noise = Noise(seed, first, len(labels), device)
    scales = generate(var, tok, labels, noise, cfg=cfg, top_k=top_k, top_p=top_p, smooth=smooth)
    tokens, f_hats = zip(*scales)
    with torch.no_grad():
        images = tok.decode_features(f_hats[-1]).clamp(-1, 1)
    return (images, list(tokens)) if return_tokens else images


Rule = Literal["painted", "touched", "paper"]
RULES: tuple[Rule, ...] = get_args(Rule)
"""By which rule a mask of pixels becomes masks of tokens, see `kept_tokens`."""


def kept_tokens(mask: Tensor, grids: Sequence[tuple[int, int]], rule: Rule) -> list[Tensor]:
    """Which tokens of each map stay the image's own where `mask` is to be drawn.

    A token's cell is the part of the picture that it covers: all pixels that a grid of h x w equal
    rectangles touches. By one of `RULES`, a token is drawn
      painted  on the last map where any pixel of its cell is painted, so that nothing painted goes
               unheard; on a coarser map where at least half of it is. Maps of up to 3 tokens say
               what the whole picture is: they are drawn only where a whole cell is painted.
      touched  on every map where any pixel of its cell is painted. Every mask then touches the
               first map, and the kept area pays for it (results/zero_shot/painting.csv).
      paper    where the mask, scaled down bilinearly, is not below one half; maps of up to 3 tokens
               never (the official demonstration). It reads four pixels at the middle of a cell, so
               that a thin line may draw nothing.

    Args:
        mask: (B, 1, H, W) bool, True where a picture is to be drawn.
        grids: (h_k, w_k) of the K maps.

    Returns:
        K bool masks (B, 1, h_k, w_k) on the CPU, True where a token is kept.
    """
    kept, pixels = [], mask.cpu().float()  # not every device pools into uneven cells
    for k, (h, w) in enumerate(grids):
        share, few = F.adaptive_avg_pool2d(pixels, (h, w)), h * w <= 3
        if rule == "paper":
            keep = F.interpolate(1 - pixels, size=(h, w), mode="bilinear") > 0.5
            kept.append(keep | few)
        elif rule == "touched" or k + 1 == len(grids):
            kept.append(share == 0)
        else:
            kept.append(share < (1 if few else 0.5))
    return kept


@torch.no_grad()
def forced(tok: MultiScaleVQVAE, images: Tensor, mask: Tensor, rule: Rule = "painted") -> Replace:
    """In-painting, as `replace` of `generate`: forces images' own codes outside of `mask`.

    The paper's protocol (appendix B): at every scale all tokens are drawn as usual, then the codes
    that are kept, by `kept_tokens`, are replaced by the image's own before the scale is added to
    f_hat. `mask` is (B, 1, H, W) bool, True where a picture is to be drawn.
    """
    own = [tok.quantizer.embed(t) for t in tok.encode(images)]  # K x (B, C, h_k, w_k)
    kept = kept_tokens(mask, tok.schedule.grids, rule)

    def replace(k: int, codes: Tensor, f_hat: Tensor) -> Tensor:
        return torch.where(kept[k].to(codes.device), own[k], codes.to(own[k].dtype))

    return replace
