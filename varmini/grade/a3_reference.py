"""References of assignment 3 in float64: the sampler, right and wrong, on the toy model."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .reference import Reference as Base
from .reference import resize, softmax


class Reference(Base):
    """The eight functions; `wrong` makes mistakes of `a3.CHECKS`.

    Attributes:
        sharpen: a generator of random numbers; `draw` then moves two thirds of its uniform numbers
            (in place) close to the edges between two tokens.
    """

    sharpen: np.random.Generator | None = None

    def guide(self, cond: Array, uncond: Array, k: int, scales: int, cfg: float) -> Array:
        """VAR's guidance of scale k, counted from 0: (1 + t) cond - t uncond."""
        t = self.choose(
            cfg * k / max(1, scales - 1),
            ramp_missing=cfg,
            ramp_over_K=cfg * k / scales,
            ramp_from_one=cfg * (k + 1) / scales,
            ramp_backwards=cfg * (scales - 1 - k) / max(1, scales - 1),
        )
        if self.makes("guidance-sign"):
            t = -t
        if self.makes("guidance-swapped"):
            cond, uncond = uncond, cond
        if self.makes("guidance-standard"):
            return uncond + t * (cond - uncond)
        if self.makes("guidance-summed"):
            return (1 + t) * cond + t * uncond
        return cond if self.makes("conditional-only") else (1 + t) * cond - t * uncond

    def rule_out(self, logits: Array, keep: Array) -> Array:
        """-inf where `keep` is False."""
        return np.where(keep, logits, 0.0 if self.makes("zero-for-minus-infinity") else -np.inf)

    def keep_top_k(self, logits: Array, top_k: int) -> Array:
        """The top_k largest stay; 0, or as many as there are, keeps all."""
        if top_k <= 0 or top_k >= logits.shape[-1]:
            return logits
        ordered = -np.sort(-logits, -1)
        self.margins.append((ordered[..., top_k - 1] - ordered[..., top_k]).min())
        count = self.choose(top_k, top_k_one_more=top_k + 1, top_k_one_less=top_k - 1)
        rank = (-logits).argsort(-1, kind="stable").argsort(-1, kind="stable")
        if self.makes("top-k-lowest"):
            rank = logits.shape[-1] - 1 - rank
        return self.rule_out(logits, rank < count)

    def keep_top_p(self, logits: Array, top_p: float) -> Array:
        """The fewest likeliest that reach top_p stay."""
        if not 0 < top_p < 1:
            return logits
        p = softmax(logits)
        order = np.argsort(p if self.makes("top-p-unlikely") else -p, axis=-1, kind="stable")
        if self.makes("top-p-unsorted"):
            order = np.broadcast_to(np.arange(p.shape[-1]), p.shape)
        p = np.take_along_axis(p, order, -1)
        before = p.cumsum(-1) - p  # of all that are likelier
        self.margins.append(np.abs(before[..., 1:] - top_p).min())
        keep = before < top_p
        if self.makes("top-p-one-less"):
            keep = before + p <= top_p
        if self.makes("top-p-one-more"):
            keep = np.concatenate([np.ones_like(keep[..., :1]), keep[..., :-1]], -1)
        if self.makes("top-p-single"):
            keep = p >= 1 - top_p
        if self.makes("top-p-threshold"):
            keep = p >= top_p
        placed = np.zeros_like(keep)
        np.put_along_axis(placed, order, keep, -1)
        return self.rule_out(logits, placed & np.isfinite(logits))

    def draw(self, logits: Array, uniform: Array) -> Array:
        """The first token whose cumulative probability exceeds the number."""
        if self.makes("draw-greedy"):
            return logits.argmax(-1)
        p = softmax(logits)
        cumulative = p.cumsum(-1)
        if self.sharpen is not None:
            _sharpen(self.sharpen, p, cumulative, uniform)
        if self.makes("draw-sorted"):
            order = np.argsort(-p, -1)
            cumulative = np.take_along_axis(p, order, -1).cumsum(-1)
        u = 1 - uniform if self.makes("draw-from-the-end") else uniform
        edges = np.where(p > 0, np.abs(cumulative - u[..., None]), 1)[..., :-1]
        self.margins.append(edges[(cumulative < 1 - 1e-9)[..., :-1]].min(initial=1))
        u = u + self.choose(0, draw_at_edge=-1e-12, draw_from_the_end=1e-12)
        drawn = (cumulative <= u[..., None]).sum(-1)
        if self.makes("draw-sorted"):
            return np.take_along_axis(order, drawn[..., None], -1)[..., 0]
        return drawn + self.choose(0, draw_one_before=-1, draw_one_after=1)

    def smooth(self, logits: Array, noise: Array, codebook: Array, k: int, scales: int) -> Array:
        """A mixture of codes by Gumbel-softmax."""
        # rho = k / (K - 1), tau = max(0.27 (1 - 0.95 rho), 0.005)
        rho = self.choose(k / max(1, scales - 1), rho_over_K=k / scales)
        tau = 0.27 if self.makes("tau-constant") else max(0.27 * (1 - 0.95 * rho), 0.005)
        noise = noise * self.choose(1, noise_missing=0, noise_minus=-1)
        scaled = logits * self.choose(1 + rho, rho_missing=1)
        if self.makes("noise-outside-tau"):
            return softmax(scaled / tau + noise) @ codebook
        if self.makes("hard-choice"):
            return codebook[(scaled + noise).argmax(-1)]
        return softmax((scaled + noise) * (tau if self.makes("tau-multiplied") else 1 / tau)) @ (
            codebook
        )  # fmt: skip

    def filtered(self, cond, uncond, k: int, scales: int, cfg, top_k: int, top_p) -> Array:
        """Guidance, top-k, top-p, in this order."""
        if self.makes("conditional-only", "unconditional-only"):
            cond = uncond = uncond if self.makes("unconditional-only") else cond
        k = k + self.makes("scales-from-one")
        if self.makes("filter-before-guidance"):
            cond, uncond = (self.both(part, top_k, top_p) for part in (cond, uncond))
            return self.guide(cond, uncond, k, scales, cfg)
        return self.both(self.guide(cond, uncond, k, scales, cfg), top_k, top_p)

    def both(self, logits: Array, top_k: int, top_p: float) -> Array:
        """Top-k, then top-p."""
        top_k = self.choose(top_k, no_top_k=0, no_filter=0)
        top_p = self.choose(top_p, no_top_p=0, no_filter=0)
        if self.makes("top-p-first"):
            return self.keep_top_k(self.keep_top_p(logits, top_p), top_k)
        return self.keep_top_p(self.keep_top_k(logits, top_k), top_p)

    def sample(self, model, uniforms, cfg, top_k, top_p):
        """(tokens, f_hat)."""
        return self.loop(model, uniforms, cfg, top_k, top_p)

    def inpaint(self, model, own, mask, uniforms, cfg, top_k, top_p):
        """`sample` with own tokens and a mask."""
        return self.loop(model, uniforms, cfg, top_k, top_p, own, mask)

    def loop(self, model, uniforms, cfg, top_k, top_p, own=None, mask=None):
        """(tokens, f_hat), of which the own tokens stay where the mask says so."""
        toy, scales = Toy(**model["toy"]), len(uniforms)
        keep = None if mask is None else self.keep_maps(mask, toy.sizes)
        x, f_hat, tokens = None, 0.0, []
        for k, (h, w) in enumerate(toy.sizes):
            logits = self.filtered(*toy.logits(k, x), k, scales, cfg, top_k, top_p)
            used = drawn = self.draw(logits, uniforms[k]).reshape(-1, h, w)
            if own is not None and not self.makes("kept-not-forced"):
                choice = ~keep[k] if self.makes("wrong-part-forced") else keep[k]
                drawn = np.where(choice, own[k], drawn)
                used = used if self.makes("forced-too-late") else drawn
            tokens.append(drawn)
            h_k = toy.contribution(k, toy.codebook[used].transpose(0, 3, 1, 2))
            f_hat = h_k if self.makes("sum-restarts") else f_hat + h_k
            if k + 1 < scales:
                x = toy.next_input(k + 1, h_k if self.makes("next-from-one-map") else f_hat)
        return tokens, f_hat

    def keep_maps(self, mask: Array, sizes: list[tuple[int, int]]) -> list[Array]:
        """For every map a bool mask, True where the picture's own tokens stay."""
        kept = (mask if self.makes("keep-inverted") else ~mask).astype(float)
        kind = self.choose(
            "bilinear",
            keep_nearest="nearest",
            keep_nearest_exact="nearest-exact",
            keep_area="area",
            keep_bicubic="bicubic",
            keep_antialias="bilinear-antialias",
        )
        few = self.choose(3, small_maps_not_forced=0, forces_four=4)
        maps = []
        for h, w in sizes:
            share = resize(kept[None, None], (h, w), kind)[0, 0]
            self.margins.append(np.abs(share - 0.5).min())
            keep = share >= 0.5 if self.makes("keep-ties") else share > 0.5
            keep = share > 1e-9 if self.makes("keep-touched") else keep
            keep = share > 1 - 1e-9 if self.makes("keep-whole") else keep
            maps.append(np.ones((h, w), bool) if h * w <= few else keep)
        return maps


def _sharpen(rng, p: Array, cumulative: Array, uniform: Array) -> None:
    """Moves uniform numbers to within 6e-5 to 3e-4 of an edge that they do not cross."""
    rows = cumulative.reshape(-1, p.shape[-1])
    flat = uniform.reshape(-1)
    for i, (row, own) in enumerate(zip(rows, p.reshape(rows.shape))):
        edges = row[:-1][own[:-1] > 0]
        edges = edges[(edges > 1e-3) & (edges < 1 - 1e-3)]
        if len(edges) and rng.random() < 2 / 3:
            flat[i] = rng.choice(edges) + rng.choice([-1, 1]) * rng.uniform(6e-5, 3e-4)
    uniform[...] = flat.reshape(uniform.shape)


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
