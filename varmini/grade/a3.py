"""Assignment 3, the sampler: guidance, filters, drawing and the loop: references and checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import clear, normal, resize, softmax, wide
from .runner import Call
from .toy import ToyModel
from .trees import walk

TITLE = "The sampler"
CLEAR = 2e-5  # no decision of the reference may be closer than this, so that float32 decides alike
LADDERS = [[(1, 1), (2, 2), (3, 4), (5, 6)], [(2, 1), (2, 3), (4, 4), (6, 5)]]
CODES = 20


class Reference(Base):
    """The functions as the notebook asks for them; `a3.toml` says what mistakes make of them.

    Attributes:
        sharpen: a random generator; `draw` then moves two thirds of its uniform numbers (in place)
            close to the edges between two tokens.
    """

    sharpen: np.random.Generator | None = None

    def guide(self, cond: Array, uncond: Array, k: int, scales: int, cfg: float) -> Array:
        t = cfg * k / max(1, scales - 1)
        return (1 + t) * cond - t * uncond

    def rule_out(self, logits: Array, keep: Array) -> Array:
        return np.where(keep, logits, -np.inf)

    def keep_top_k(self, logits: Array, top_k: int) -> Array:
        if not 0 < top_k < logits.shape[-1]:
            return logits
        ordered = -np.sort(-logits, -1)
        self.margins.append((ordered[..., top_k - 1] - ordered[..., top_k]).min())
        rank = (-logits).argsort(-1, kind="stable").argsort(-1, kind="stable")
        return self.rule_out(logits, rank < top_k)

    def keep_top_p(self, logits: Array, top_p: float) -> Array:
        if not 0 < top_p < 1:
            return logits
        p = softmax(logits)
        order = np.argsort(-p, axis=-1, kind="stable")
        p = np.take_along_axis(p, order, -1)
        before = p.cumsum(-1) - p  # of all that are likelier
        self.margins.append(np.abs(before[..., 1:] - top_p).min())
        keep = np.zeros(p.shape, bool)
        np.put_along_axis(keep, order, before < top_p, -1)
        return self.rule_out(logits, keep & np.isfinite(logits))

    def draw(self, logits: Array, uniform: Array) -> Array:
        p = softmax(logits)
        cumulative = p.cumsum(-1)
        if self.sharpen is not None:
            _sharpen(self.sharpen, p, cumulative, uniform)
        u = uniform[..., None]
        edges = np.where(p > 0, np.abs(cumulative - u), 1)[..., :-1]
        self.margins.append(edges[(cumulative < 1 - 1e-9)[..., :-1]].min(initial=1))
        return (cumulative <= u).sum(-1)

    def smooth(self, logits: Array, noise: Array, codebook: Array, k: int, scales: int) -> Array:
        rho = k / max(1, scales - 1)
        tau = max(0.27 * (1 - 0.95 * rho), 0.005)
        return softmax((logits * (1 + rho) + noise) / tau) @ codebook

    def both(self, logits: Array, top_k: int, top_p: float) -> Array:
        return self.keep_top_p(self.keep_top_k(logits, top_k), top_p)

    def filtered(self, cond, uncond, k: int, scales: int, cfg, top_k: int, top_p) -> Array:
        """Guidance, top-k, top-p, in this order."""
        return self.both(self.guide(cond, uncond, k, scales, cfg), top_k, top_p)

    def sample(self, model, uniforms, cfg, top_k, top_p):
        return self.loop(model, uniforms, cfg, top_k, top_p)

    def inpaint(self, model, own, mask, uniforms, cfg, top_k, top_p):
        return self.loop(model, uniforms, cfg, top_k, top_p, own, mask)

    def loop(self, model, uniforms, cfg, top_k, top_p, own=None, mask=None):
        toy, x, f_hat, tokens = ToyModel(resize, **model["toy"]), None, 0.0, []
        keep = None if mask is None else self.keep_maps(mask, toy.sizes)
        for k, (h, w) in enumerate(toy.sizes):
            logits = self.filtered(*toy.logits(k, x), k, len(uniforms), cfg, top_k, top_p)
            used = drawn = self.draw(logits, uniforms[k]).reshape(-1, h, w)
            if keep is not None:
                used = drawn = np.where(keep[k], own[k], drawn)
            tokens.append(drawn)
            h_k = toy.contribution(k, toy.codebook[used].transpose(0, 3, 1, 2))
            f_hat = f_hat + h_k
            if k + 1 < len(uniforms):
                x = toy.next_input(k + 1, f_hat)
        return tokens, f_hat

    def keep_maps(self, mask: Array, sizes: list[tuple[int, int]]) -> list[Array]:
        maps = []
        for h, w in sizes:
            share = resize((~mask)[None, None].astype(float), (h, w), "bilinear")[0, 0]
            self.margins.append(np.abs(share - 0.5).min())
            keep = share > 0.5
            maps.append(np.ones((h, w), bool) if h * w <= 3 else keep)
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


def cases_top_p(rng):
    """Wide and narrow sets, codes ruled out before, and the values that keep all."""

    def case(scale, top_p, gone=()):
        def make(r):
            values = normal(r, 3, 4, 9, scale=scale)
            values[..., gone] = -np.inf  # ruled out before, as top-k does
            return Call("keep_top_p", (values, top_p))

        return clear(rng, make, Reference, CLEAR)

    calls = [case(1.0, 0.7), case(2.0, 0.9), case(1.5, 0.02), case(1.0, 0.5, [2, 5])]
    calls += [(normal(rng, 2, 3, 9), top_p) for top_p in (1.0, 0.0)]
    # All are kept, though the likeliest alone add up to 1 in float32.
    return calls + [(normal(rng, 2, 3, 9, scale=100), 1.0)]


def sharp(rng: Generator, make, at: int = -4) -> Call:
    """A clear call, many of whose random numbers lie close to the edge between two tokens."""

    def sharpened(r):
        call = make(r)
        right, args, live = Reference(), list(call.args), wide(call.args)
        right.sharpen = r
        getattr(right, call.function)(*live)  # changes the random numbers in place
        args[at] = walk(live[at], lambda numbers: numbers.astype(np.float32))
        return replace(call, args=tuple(args))

    return clear(rng, sharpened, Reference, CLEAR)


def uniform(rng: Generator, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1), float32."""
    return rng.random(shape).astype(np.float32)


def cases_draw(rng):
    """Numbers near the edges; codes without probability at both ends, and 0 and nearly 1."""

    def case(length, codes, gone):
        def make(r):
            logits = normal(r, 3, length, codes, scale=1.5)
            logits[..., gone] = -np.inf
            return Call("draw", (logits, uniform(r, 3, length)))

        return sharp(rng, make, at=1)

    edge = normal(rng, 2, 4, 8)
    edge[..., [0, 7]] = -np.inf
    ends = np.zeros((2, 4), np.float32)
    ends[:, ::2] = 1 - 2.0**-24  # the largest number below 1
    many = normal(rng, 2, 12, 4096, scale=2.0)
    many[..., -2:] = 3.0, -np.inf  # the last one that counts is likely: its lower edge is far off
    nearly = np.full((2, 12), ends[0, 0])
    return [case(4, 6, []), case(20, 8, [0, 3, 7]), (edge, ends), (many, nearly)]


def toy(rng: Generator, sizes, batch: int = 3, channels: int = 4) -> dict:
    """A small model by its weights: what `ToyModel` is made from."""
    h, w = sizes[0]
    return {"toy": {
        "sizes": sizes, "codebook": normal(rng, CODES, channels),
        "start": normal(rng, batch, h * w, channels),
        "weight": normal(rng, channels, CODES, scale=0.7),
        "bias": normal(rng, len(sizes), 1, CODES, scale=0.5),
        "null": normal(rng, channels, CODES, scale=0.4),
    }}  # fmt: skip


FILTERS = [(1.5, 5, 0.8), (0.7, 12, 0.6), (2.0, 3, 0.95), (1.0, 8, 0.9)]
"""(cfg, top_k, top_p); in all of them both filters rule out something."""


def cases_loop(rng, function):
    """The whole loop, with own tokens and a mask or without, four times with other filters."""

    def case(sizes, batch, filters):
        def make(r):
            uniforms = [uniform(r, batch, h * w) for h, w in sizes]
            own = [r.integers(0, CODES, (batch, *size)) for size in sizes]
            more = (own, clear_mask(r, sizes)) if function == "inpaint" else ()
            return Call(function, (toy(r, sizes, batch), *more, uniforms, *filters))

        return sharp(rng, make)

    return [case(LADDERS[i % 2], 2 + i % 2, filters) for i, filters in enumerate(FILTERS)]


def clear_mask(rng: Generator, sizes, height: int = 18, width: int = 13) -> np.ndarray:
    """A mask with a rectangle and some patches to be drawn, clear on all maps."""

    def make(r):
        mask = np.zeros((height, width), bool)
        (top, bottom), (left, right) = (
            (r.integers(1, side // 2), r.integers(side // 2 + 1, side)) for side in mask.shape
        )
        mask[top:bottom, left:right] = True
        for _ in range(6):
            y, x = r.integers(0, height - 3), r.integers(0, width - 3)
            mask[y : y + r.integers(1, 4), x : x + r.integers(1, 4)] ^= True
        return Call("keep_maps", (mask, sizes))

    return clear(rng, make, Reference, 1e-3).args[0]


def cases_keep(rng):
    """Odd masks, and an edge through the middle of positions: kept by exactly one half."""
    sizes = [(1, 1), (1, 3), (2, 2), (3, 5), (5, 5), (7, 6), (8, 9)]
    tie = np.zeros((8, 16), bool)
    tie[:, : int(rng.choice([3, 5, 7]))] = True  # ends in the middle of two cells of the 8x8 map
    tie[:, 8:] = rng.random(8) < 0.5
    return [(clear_mask(rng, sizes), sizes), (clear_mask(rng, sizes, 11, 21), sizes),
            (clear_mask(rng, sizes, 17, 17), sizes), (tie, [(1, 2), (2, 2), (8, 8)])]  # fmt: skip


CHECKS = [
    # First, middle and last scales, so that the ends of the ramp show.
    Check("guide", 1, 3, lambda rng: [
        (normal(rng, batch, 3, 7), normal(rng, batch, 3, 7), k, scales, cfg)
        for batch, k, scales, cfg in ((2, 0, 4, 1.5), (3, 1, 4, 1.5), (2, 3, 4, 3), (1, 2, 6, 0.7))
    ]),
    # Some, one, none (0: keep all), exactly all, and more than there are.
    Check("keep_top_k", 2, 2, lambda rng: [(normal(rng, 3, 3, 9), k) for k in (3, 1, 0, 9, 30, 8)]),
    Check("keep_top_p", 3, 4, cases_top_p),
    Check("draw", 4, 3, cases_draw),
    Check("smooth", 5, 3, lambda rng: [
        (normal(rng, b, 3, 9, scale=0.5), rng.gumbel(size=(b, 3, 9)).astype(np.float32),
         normal(rng, 9, 4), k, scales)
        for b, k, scales in ((2, 0, 4), (3, 1, 4), (2, 2, 4), (1, 4, 6))
    ], tolerance=1e-3),
    Check("sample", 6, 4, lambda rng: cases_loop(rng, "sample")),
    Check("keep_maps", 7, 2, cases_keep),
    Check("inpaint", 8, 4, lambda rng: cases_loop(rng, "inpaint"), known=("inpaint", "sample")),
]  # fmt: skip
