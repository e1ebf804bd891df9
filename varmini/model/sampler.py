"""Drawing pictures: guidance, top-k and top-p, scale by scale, with in-painting and editing."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fast.graphs import stepping
from ..runtime.machine import check_memory
from ..runtime.precision import for_sampling, ready
from .filters import check_filter, draw, filter_logits, guide, smoothed
from .tokenizer import MultiScaleVQVAE
from .transformer import VAR

CACHE_BYTES = 1 << 30


class _Noise:
    """The random numbers of a batch: image i has its own generator, so batches may be split."""

    def __init__(self, seed: int | None, first: int, count: int, device: torch.device) -> None:
        base = int(torch.randint(2**32, ())) if seed is None else seed
        # A large odd stride keeps the streams of (seed, image) pairs apart.
        self.generators = [
            torch.Generator().manual_seed((base * 1_000_003 + first + i) % 2**63)
            for i in range(count)
        ]
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """(count, *shape) numbers, uniform in [0, 1)."""
        rows = [torch.rand(shape, generator=g) for g in self.generators]
        rows = torch.stack(rows) if rows else torch.empty(0, *shape)
        return rows.to(self.device, non_blocking=True)  # waiting would stall a GPU at every scale

    def gumbel(self, *shape: int) -> Tensor:
        """(count, *shape) standard Gumbel numbers, -log(-log u)."""
        u = self.uniform(*shape).clamp(min=1e-20)
        return -(-u.log()).clamp(min=1e-20).log()


def sample(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor | Sequence[int],
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
    machine is quick at it (`runtime.precision`; VARMINI_PRECISION=float32 turns that off), but
    float32 for greedy drawing, top_k=1.

    Args:
        labels: (B,) classes in [0, num_classes), or num_classes for "no class".
        cfg: guidance at the last scale, ramped from 0 at the first; 0 turns guidance off.
        top_k, top_p: see `filter_logits`.
        seed: for repeatable pictures; None draws a fresh one.
        smooth: mix codes softly (`smoothed`): prettier pictures, but no longer true samples.
        return_tokens: also return the token pyramid.
        batch_size: images drawn together; None takes as many as a key-value cache of 1 GiB holds.
        first: number of the first image, for a part of a larger draw: it gives what images first,
            first + 1, ... of that draw would be.

    Returns:
        Images (B, C, H, W) in [-1, 1]; with return_tokens also K LongTensors (B, h_k, w_k).

    Raises:
        ValueError: when the two models do not fit, an argument is out of range, or on a CPU the
            memory does not hold the batch.
    """
    labels = _as_labels(labels)
    if seed is None and first:
        raise ValueError(f"first is {first} without a seed: a part of a draw needs the draw's seed")
    images, tokens = [], []
    with torch.inference_mode():  # less to keep track of than without gradients alone
        for at, part in _parts(var, tok, labels, cfg, top_k, top_p, seed, batch_size):
            noise = _Noise(seed, first + at, len(part), part.device)
            loop = generate(var, tok, part, cfg, top_k, top_p, noise, smooth)
            with for_sampling(part.device.type, greedy=top_k == 1):
                for k, codes, drawn, f_hat in loop:
                    tokens.append(drawn)
                images.append(tok.decode_features(f_hat).clamp(-1, 1))
    images = torch.cat(images)  # copies, outside of that mode, so that a caller may train on them
    if not return_tokens:
        return images
    scales = len(tok.schedule)
    return images, [torch.cat(tokens[k::scales]) for k in range(scales)]


def generate(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    cfg: float,
    top_k: int,
    top_p: float,
    noise: _Noise,
    smooth: bool = False,
    replace=None,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """The sampling loop itself: yields (k, codes, tokens, f_hat) after every scale.

    Args:
        labels: (B,), already checked.
        replace: called as replace(k, codes, f_hat) -> codes before a scale is added, to force some
            of its (B, C, h_k, w_k) codes (in-painting).
    """
    quantizer, batch, scales = tok.quantizer, len(labels), len(tok.schedule)
    guided, model = cfg != 0, ready(var)
    null = torch.full_like(labels, var.config.num_classes)
    x, modulations, head = model.condition(torch.cat([labels, null]) if guided else labels)
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else torch.float32
    f_hat = torch.zeros(batch, quantizer.channels, *tok.schedule.grids[-1], device=x.device)
    with stepping(model, modulations, dtype, laid_out=model is not var) as advance:
        for k, (h, w) in enumerate(tok.schedule.grids):
            last = model.before_head(advance(k, x), head)
            if guided:
                # The head is linear, so the halves are mixed before it: half its work, less
                # rounding.
                last = guide(*last.float().chunk(2), k, scales, cfg)
            logits = filter_logits(model.head(last).float(), top_k, top_p)
            tokens = draw(logits, noise.uniform(h * w)).view(batch, h, w)
            codes = quantizer.embed(tokens)
            if smooth:
                gumbel = noise.gumbel(h * w, tok.vocab_size)
                mixed = smoothed(logits, gumbel, quantizer.codebook.weight, k, scales)
                codes = mixed.transpose(1, 2).unflatten(2, (h, w))
            if replace is not None:
                codes = replace(k, codes, f_hat)
            f_hat = f_hat + quantizer.contribution(k, codes.float())
            yield k, codes, tokens, f_hat
            if k + 1 < scales:
                x = model.word(quantizer.next_input(f_hat, k + 1))
                x = torch.cat([x, x]) if guided else x


def check_drawing(cfg: float, top_k: int, top_p: float, seed: int | None) -> None:
    """Raises a ValueError unless these are what `sample` takes."""
    if not isinstance(cfg, numbers.Real) or not 0 <= cfg < float("inf"):
        raise ValueError(f"cfg is {cfg}, expected a guidance strength of 0 (none) or more")
    if seed is not None and not (isinstance(seed, numbers.Integral) and 0 <= seed < 2**32):
        raise ValueError(f"seed is {seed}, expected an integer from 0 to 2^32 - 1, or None")
    check_filter(top_k, top_p)


def _as_labels(labels: Tensor | Sequence[int]) -> Tensor:
    if not isinstance(labels, Tensor):
        try:
            labels = torch.tensor(labels, dtype=None if len(labels) else torch.long)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"labels are {labels!r}, expected a list of class numbers") from None
    return labels


def _parts(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    cfg: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    batch_size: int | None,
) -> Iterator[tuple[int, Tensor]]:
    """Checks the arguments, then yields (number of the first image, labels) of every part."""
    if (
        var.schedule != tok.schedule
        or var.config.vocab_size != tok.vocab_size
        or var.config.code_channels != tok.config.code_channels
    ):
        raise ValueError(
            f"the transformer reads {var.schedule}, {var.config.vocab_size} codes of "
            f"{var.config.code_channels} channels, but the tokenizer writes {tok.schedule}, "
            f"{tok.vocab_size} codes of {tok.config.code_channels}: load a pair trained together"
        )
    if var.training or tok.training:
        raise ValueError("a model is in training mode: call .eval() on both before sampling")
    check_drawing(cfg, top_k, top_p, seed)
    labels = var.check_labels(labels.cpu())  # their range is looked at there
    # Keys and values of both guidance halves, in float32.
    per_image = 2 * 2 * 4 * var.config.depth * var.config.width * var.schedule.num_tokens
    # ... and some six copies of the last scale's logits.
    per_image += 24 * max(var.schedule.tokens_per_scale) * var.config.vocab_size
    if batch_size is None:
        batch_size = min(256, max(1, CACHE_BYTES // per_image))
    elif batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1, or None")
    check_memory("images at a time", "batch_size", min(batch_size, len(labels)), per_image)
    for first in range(0, max(1, len(labels)), batch_size):
        yield first, labels[first : first + batch_size]


@torch.no_grad()
def inpaint(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    mask: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    cfg: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    seed: int | None = None,
    smooth: bool = False,
    batch_size: int | None = None,
) -> Tensor:
    """Redraws the masked part of images; everything else is forced to their own tokens.

    The paper's protocol (appendix B): at every scale all tokens are drawn as usual, then the codes
    that the mask keeps are replaced by the image's own before the scale is added. Maps of up to 3
    tokens are forced entirely, for they say what the whole picture is. The image is encoded in the
    caller's arithmetic, and drawn and decoded in that of `sample`.

    Args:
        images: (B, C, H, W) in [-1, 1].
        mask: (H, W) or (B, H, W) bool, True where a picture is to be drawn.
        labels: (B,) classes for class-conditional editing; None for the null class.
        cfg, top_k, top_p, seed, smooth, batch_size: as in `sample`.

    Returns:
        Images (B, C, H, W) in [-1, 1], decoded from the mixed tokens.

    Raises:
        ValueError: on a mask of another shape or type, and as `sample` does.
    """
    tok.check_images(images)
    if not isinstance(mask, Tensor):
        raise ValueError(f"mask is a {type(mask).__name__}, expected a bool tensor (H, W)")
    if mask.dtype != torch.bool or mask.shape not in (
        images.shape[2:],
        images.shape[:1] + images.shape[2:],
    ):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}, expected bool "
            f"{tuple(images.shape[2:])} or {(len(images), *images.shape[2:])}, True "
            f"where a picture is to be drawn"
        )
    keep = (~mask).float().expand(len(images), *images.shape[2:])[:, None]
    if labels is None:
        labels = torch.full((len(images),), var.config.num_classes)
    labels = _as_labels(labels)
    if len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images: expected one each")
    results = []
    for first, part in _parts(var, tok, labels, cfg, top_k, top_p, seed, batch_size):
        rows = slice(first, first + len(part))
        own = [tok.quantizer.embed(t) for t in tok.encode(images[rows])]

        def force(k: int, codes: Tensor, f_hat: Tensor, own=own, rows=rows) -> Tensor:
            h, w = tok.schedule.grids[k]
            if h * w <= 3:
                return own[k]
            kept = F.interpolate(keep[rows], size=(h, w), mode="bilinear") > 0.5
            return torch.where(kept.to(codes.device), own[k], codes)

        noise = _Noise(seed, first, len(part), part.device)
        with for_sampling(part.device.type, greedy=top_k == 1):
            for *_, f_hat in generate(var, tok, part, cfg, top_k, top_p, noise, smooth, force):
                pass
            results.append(tok.decode_features(f_hat).clamp(-1, 1))
    return torch.cat(results)
