"""References of assignment 3 in float64: the sampler, right and wrong, on the toy model."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import resize, softmax, wide
from .runner import Call

Wrong = frozenset


def guide(cond: Array, uncond: Array, k: int, scales: int, cfg: float, wrong: Wrong) -> Array:
    """VAR's guidance of scale k, counted from 0."""
    # t = cfg k / (K - 1);  (1 + t) cond - t uncond
    t = cfg * k / max(1, scales - 1)
    t = cfg if "ramp-missing" in wrong else t
    t = cfg * k / scales if "ramp-over-K" in wrong else t
    t = cfg * (k + 1) / scales if "ramp-from-one" in wrong else t
    if "guidance-sign" in wrong:
        t = -t
    if "guidance-swapped" in wrong:
        cond, uncond = uncond, cond
    if "guidance-standard" in wrong:
        return uncond + t * (cond - uncond)
    if "conditional-only" in wrong:
        return cond
    return (1 + t) * cond - t * uncond


def rule_out(logits: Array, keep: Array, wrong: Wrong) -> Array:
    """-inf where `keep` is False."""
    return np.where(keep, logits, 0.0 if "zero-for-minus-infinity" in wrong else -np.inf)


def keep_top_k(logits: Array, top_k: int, wrong: Wrong) -> Array:
    """The top_k largest stay; 0, or as many as there are, keeps all."""
    if top_k <= 0 or top_k >= logits.shape[-1]:
        return logits
    count = top_k + ("top-k-one-more" in wrong) - ("top-k-one-less" in wrong)
    rank = (-logits).argsort(-1, kind="stable").argsort(-1, kind="stable")
    if "top-k-lowest" in wrong:
        rank = logits.shape[-1] - 1 - rank
    return rule_out(logits, rank < count, wrong)


def keep_top_p(logits: Array, top_p: float, wrong: Wrong, margins: list | None = None) -> Array:
    """The fewest likeliest that reach top_p stay; `margins` gets the closest call."""
    if not 0 < top_p < 1:
        return logits
    p = softmax(logits)
    order = np.argsort(p if "top-p-unlikely" in wrong else -p, axis=-1, kind="stable")
    if "top-p-unsorted" in wrong:
        order = np.broadcast_to(np.arange(p.shape[-1]), p.shape)
    p = np.take_along_axis(p, order, -1)
    before = p.cumsum(-1) - p  # of all that are likelier
    if margins is not None:
        margins.append(np.abs(before[..., 1:] - top_p).min())
    keep = before < top_p
    if "top-p-one-less" in wrong:
        keep = before + p <= top_p
    if "top-p-one-more" in wrong:
        keep = np.concatenate([np.ones_like(keep[..., :1]), keep[..., :-1]], -1)
    if "top-p-single" in wrong:
        keep = p >= 1 - top_p
    placed = np.zeros_like(keep)
    np.put_along_axis(placed, order, keep, -1)
    return rule_out(logits, placed & np.isfinite(logits), wrong)


def draw(logits: Array, uniform: Array, wrong: Wrong, margins: list | None = None) -> Array:
    """The first token whose cumulative probability exceeds the number."""
    if "draw-greedy" in wrong:
        return logits.argmax(-1)
    uniform = 1 - uniform if "draw-from-the-end" in wrong else uniform
    p = softmax(logits)
    cumulative = p.cumsum(-1)
    if margins is not None:
        margins.append(np.abs(cumulative - uniform[..., None]).min())
    drawn = (cumulative <= uniform[..., None]).sum(-1)
    if "draw-one-before" in wrong:
        drawn = drawn - 1
    if "draw-one-after" in wrong:
        drawn = drawn + 1
    return drawn


def smooth(logits, noise, codebook, k, scales, wrong):
    """A mixture of codes by Gumbel-softmax."""
    # rho = k / (K - 1), tau = max(0.27 (1 - 0.95 rho), 0.005)
    rho = k / max(1, scales - 1)
    tau = 0.27 if "tau-constant" in wrong else max(0.27 * (1 - 0.95 * rho), 0.005)
    noise = noise * (0 if "noise-missing" in wrong else -1 if "noise-minus" in wrong else 1)
    scaled = logits if "rho-missing" in wrong else logits * (1 + rho)
    if "noise-outside-tau" in wrong:
        return softmax(scaled / tau + noise) @ codebook
    if "hard-choice" in wrong:
        return codebook[(scaled + noise).argmax(-1)]
    return softmax((scaled + noise) / tau) @ codebook


# ------------------------------------------------------------------------ the toy model, the loop


class Toy:
    """`toy.ToyModel` in float64."""

    def __init__(self, sizes, codebook, start, weight, bias, null):
        self.sizes, self.codebook = [tuple(size) for size in sizes], codebook
        self.start, self.weight, self.bias, self.null = start, weight, bias, null

    def logits(self, k, x):
        x = self.start if x is None else x
        return x @ self.weight + self.bias[k], x @ self.null + self.bias[k]

    def contribution(self, k, codes):
        return resize(codes, self.sizes[-1], "bicubic") / (1 + 0.3 * k)

    def next_input(self, k, f_hat):
        small = resize(f_hat, self.sizes[k], "area")
        return small.reshape(*small.shape[:2], -1).transpose(0, 2, 1)


def filtered(cond, uncond, k, scales, cfg, top_k, top_p, wrong, margins):
    """Guidance, top-k, top-p, in this order."""
    def both(logits):
        if "top-p-first" in wrong:
            return keep_top_k(keep_top_p(logits, top_p, wrong, margins), top_k, wrong)
        few = keep_top_k(logits, top_k, wrong)
        if margins is not None and 0 < top_k < logits.shape[-1]:
            ordered = np.sort(logits, -1)
            margins.append((ordered[..., -top_k] - ordered[..., -top_k - 1]).min())
        return keep_top_p(few, top_p, wrong, margins)

    if "filter-before-guidance" in wrong:
        with np.errstate(invalid="ignore"):  # the difference of two ruled-out logits is NaN
            return guide(both(cond), both(uncond), k, scales, cfg, wrong)
    return both(guide(cond, uncond, k, scales, cfg, wrong))


def sample(model, uniforms, cfg, top_k, top_p, wrong, margins=None, own=None, mask=None):
    """The loop; with `own` tokens and a mask, in-painting."""
    toy, scales = Toy(**model["toy"]), len(uniforms)
    keep = None if mask is None else keep_maps(mask, toy.sizes, wrong)
    x, f_hat, tokens = None, 0.0, []
    for k, (h, w) in enumerate(toy.sizes):
        logits = filtered(*toy.logits(k, x), k, scales, cfg, top_k, top_p, wrong, margins)
        drawn = draw(logits, uniforms[k], wrong, margins).reshape(-1, h, w)
        used = drawn
        if own is not None and "kept-not-forced" not in wrong:
            drawn = np.where(keep[k], own[k], drawn)
            used = used if "forced-too-late" in wrong else drawn
        tokens.append(drawn)
        codes = toy.codebook[used].transpose(0, 3, 1, 2)
        h_k = toy.contribution(k, codes)
        f_hat = h_k if "sum-restarts" in wrong else f_hat + h_k
        if k + 1 < scales:
            x = toy.next_input(k + 1, h_k if "next-from-one-map" in wrong else f_hat)
    return tokens, f_hat


def keep_values(mask: Array, size: tuple[int, int], kind: str = "bilinear") -> Array:
    """The share of a place that is kept, 0 to 1."""
    return resize((~mask).astype(float)[None, None], size, kind)[0, 0]


def keep_maps(mask: Array, sizes: list[tuple[int, int]], wrong: Wrong) -> list[Array]:
    """For every map a bool mask, True where the picture's own tokens stay."""
    mask = ~mask if "keep-inverted" in wrong else mask
    kind = "nearest" if "keep-nearest" in wrong else "area" if "keep-area" in wrong else "bilinear"
    few = 0 if "small-maps-not-forced" in wrong else 4 if "forces-four" in wrong else 3
    maps = []
    for h, w in sizes:
        share = keep_values(mask, (h, w), kind)
        keep = share >= 0.5 if "keep-ties" in wrong else share > 0.5
        keep = share > 0 if "keep-touched" in wrong else keep
        maps.append(np.ones((h, w), bool) if h * w <= few else keep)
    return maps


def inpaint(model, own, mask, uniforms, cfg, top_k, top_p, wrong, margins=None):
    """`sample` with own tokens and a mask."""
    return sample(model, uniforms, cfg, top_k, top_p, wrong, margins, own, mask)


def reference(call: Call, wrong: Wrong):
    """The expected answer to a call, with the mistakes in `wrong` made."""
    functions = {
        "guide": guide, "keep_top_k": keep_top_k, "keep_top_p": keep_top_p, "draw": draw,
        "smooth": smooth, "sample": sample, "keep_maps": keep_maps, "inpaint": inpaint,
    }  # fmt: skip
    return functions[call.function](*wide(call.args), wrong)
