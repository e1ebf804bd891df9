"""Assignment 3, the sampler: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .a3_reference import Reference
from .checks import Check
from .reference import clear, normal, wide
from .runner import Call

TITLE = "The sampler"
MINUTES = 120

CLEAR = 2e-5
"""No decision of the reference may be closer than this, so that float32 decides alike."""
LADDERS = [[(1, 1), (2, 2), (3, 4), (5, 6)], [(2, 1), (2, 3), (4, 4), (6, 5)]]
CODES = 20


def cases_guide(rng):
    """First, middle and last scales, so that the ends of the ramp show."""
    return [
        (normal(rng, batch, 3, 7), normal(rng, batch, 3, 7), k, scales, cfg)
        for batch, k, scales, cfg in ((2, 0, 4, 1.5), (3, 1, 4, 1.5), (2, 3, 4, 3), (1, 2, 6, 0.7))
    ]


def cases_top_k(rng):
    """Some, one, none (0: keep all), exactly all, and more than there are."""
    return [(normal(rng, 3, 3, 9), top_k) for top_k in (3, 1, 0, 9, 30, 8)]


def cases_top_p(rng):
    """Wide and narrow sets, codes ruled out before, and the values that keep all."""

    def case(scale, top_p, gone=()):
        def make(r):
            values = normal(r, 3, 4, 9, scale=scale)
            values[..., gone] = -np.inf  # ruled out before, as top-k does
            return Call("keep_top_p", (values, top_p))

        return clear(rng, make, Reference, CLEAR)

    calls = [case(1.0, 0.7), case(2.0, 0.9), case(1.5, 0.02), case(1.0, 0.5, [2, 5])]
    return calls + [(normal(rng, 2, 3, 9), top_p) for top_p in (1.0, 0.0)]


def sharp(rng: Generator, make) -> Call:
    """A clear call of which many random numbers lie close to the edge between two tokens."""

    def sharpened(r):
        call = make(r)
        right, args = Reference(), wide(call.args)
        right.sharpen = r
        getattr(right, call.function)(*args)  # `uniform` changes in place
        found = dict(zip(("draw", "sample", "inpaint"), (1, 1, 3)))[call.function]
        new = args[found]
        new = new.astype(np.float32) if isinstance(new, np.ndarray) else [
            one.astype(np.float32) for one in new
        ]  # fmt: skip
        call.args = (*call.args[:found], new, *call.args[found + 1 :])
        return call

    return clear(rng, sharpened, Reference, CLEAR)


def uniform(rng: Generator, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1), float32."""
    return rng.random(shape).astype(np.float32)


def cases_draw(rng):
    """Numbers near the edges; codes without probability at both ends, and 0 and nearly 1."""

    def make(length, codes, gone):
        def one(r):
            logits = normal(r, 3, length, codes, scale=1.5)
            logits[..., gone] = -np.inf
            return Call("draw", (logits, uniform(r, 3, length)))

        return one

    edge = normal(rng, 2, 4, 8)
    edge[..., [0, 7]] = -np.inf
    ends = np.zeros((2, 4), np.float32)
    ends[:, ::2] = 1 - 2.0**-24  # the largest number below 1
    many = normal(rng, 2, 12, 4096, scale=2.0)
    many[..., -2:] = 3.0, -np.inf  # the last one that counts is likely: its lower edge is far off
    return [sharp(rng, make(4, 6, [])), sharp(rng, make(20, 8, [0, 3, 7])), (edge, ends),
            (many, np.full((2, 12), ends[0, 0]))]  # fmt: skip


def cases_smooth(rng):
    """Several scales with given Gumbel noise: temperature, factor and noise."""

    def gumbel(*shape):
        return -np.log(-np.log(rng.random(shape))).astype(np.float32)

    return [
        (normal(rng, b, 3, 9, scale=0.5), gumbel(b, 3, 9), normal(rng, 9, 4), k, scales)
        for b, k, scales in ((2, 0, 4), (3, 1, 4), (2, 2, 4), (1, 4, 6))
    ]


def toy(rng: Generator, sizes, batch: int = 3, channels: int = 4) -> dict:
    """A small model by its weights: what `toy.ToyModel` and the reference are made from."""
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

    def make(sizes, batch, filters):
        def one(r):
            uniforms = [uniform(r, batch, h * w) for h, w in sizes]
            own = [r.integers(0, CODES, (batch, *size)) for size in sizes]
            more = (own, clear_mask(r, sizes)) if function == "inpaint" else ()
            return Call(function, (toy(r, sizes, batch), *more, uniforms, *filters))

        return one

    return [
        sharp(rng, make(LADDERS[i % 2], 2 + i % 2, filters)) for i, filters in enumerate(FILTERS)
    ]


def clear_mask(rng: Generator, sizes, height: int = 18, width: int = 13) -> np.ndarray:
    """A mask with a rectangle and some patches to be drawn, clear on all maps."""
    while True:
        mask = np.zeros((height, width), bool)
        (top, bottom), (left, right) = (
            (rng.integers(1, side // 2), rng.integers(side // 2 + 1, side))
            for side in mask.shape
        )
        mask[top:bottom, left:right] = True
        for _ in range(6):
            y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
            mask[y : y + rng.integers(1, 4), x : x + rng.integers(1, 4)] ^= True
        reference = Reference()
        reference.keep_maps(mask, sizes)
        if min(reference.margins) > 1e-3:
            return mask


def cases_keep(rng):
    """Odd masks, and an edge through the middle of positions: kept by exactly one half."""
    sizes = [(1, 1), (1, 3), (2, 2), (3, 5), (5, 5), (7, 6), (8, 9)]
    tie = np.zeros((8, 16), bool)
    tie[:, : int(rng.choice([3, 5, 7]))] = True  # ends in the middle of two cells of the 8x8 map
    tie[:, 8:] = rng.random(8) < 0.5
    return [(clear_mask(rng, sizes), sizes), (clear_mask(rng, sizes, 11, 21), sizes),
            (clear_mask(rng, sizes, 17, 17), sizes), (tie, [(1, 2), (2, 2), (8, 8)])]  # fmt: skip


LOOP = {
    "next-from-one-map": "the next scale reads the share of one map; it reads the sum f_hat",
    "sum-restarts": "f_hat holds one map only; add up all of them",
    "conditional-only": "guidance is left out: call guide at every scale",
    "unconditional-only": "it draws without the class: guide takes cond first",
    "scales-from-one": "guide gets k + 1; scales count from 0",
    "no-filter": "neither top-k nor top-p is used",
    "no-top-k": "top-k is left out",
    "no-top-p": "top-p is left out",
    "top-k-one-more": "top-k keeps one token too many",
    "filter-before-guidance": "top-k and top-p come after guidance, on its result",
    "top-p-first": "top-p came before top-k: it must see what top-k has left",
    "draw-greedy": "that takes the likeliest tokens; draw with the random numbers",
}  # fmt: skip
PAINTING = {
    "kept-not-forced": "the kept tokens are not forced: the whole picture is drawn anew",
    "forced-too-late": "the kept tokens are put in after the scale was added to f_hat, so the "
                       "next scale reads the wrong picture",
    "wrong-part-forced": "the wrong part is forced: keep is True where the picture's own tokens "
                         "stay",
    "small-maps-not-forced": "maps of up to 3 tokens are kept entirely",
}  # fmt: skip
CHECKS = [
    Check("guide", 1, 3, cases_guide, {
        "ramp-missing": "the guidance is the same at every scale; it ramps up, t = cfg k / (K - 1)",
        "ramp-over-K": "the ramp ends below cfg: divide by K - 1, so that the last scale gets it "
                       "all",
        "ramp-from-one": "the ramp starts too early: k counts from 0, and the first scale has no "
                         "guidance",
        "guidance-sign": "the sign is wrong: it pushes away from the class; "
                         "(1 + t) cond - t uncond",
        "guidance-swapped": "the two predictions are swapped: (1 + t) belongs to cond",
        "guidance-standard": "that is uncond + t (cond - uncond), another convention, whose "
                             "strength is 1 + t here: at t = 0 it would ignore the class",
        "conditional-only": "uncond plays no part",
        "guidance-summed": "the two predictions are added up; it is (1 + t) cond *minus* t uncond",
        "ramp-backwards": "the ramp runs backwards: the first scale has no guidance, the last all",
    }),
    Check("keep_top_k", 2, 2, cases_top_k, {
        "top-k-one-more": "it keeps one token too many",
        "top-k-one-less": "it keeps one token too few",
        "top-k-lowest": "it keeps the least likely tokens",
        "zero-for-minus-infinity": "what is ruled out became 0, which is a likely logit; put -inf",
    }),
    Check("keep_top_p", 3, 4, cases_top_p, {
        "top-p-one-less": "off by one: the token that crosses top_p stays out; the set must reach "
                          "top_p",
        "top-p-one-more": "off by one: it keeps one token after the set has reached top_p",
        "top-p-unsorted": "it adds up probabilities in the order of the codes; sort them first",
        "top-p-unlikely": "it starts from the least likely token; sort in descending order",
        "top-p-threshold": "it keeps what is likelier than top_p by itself; add up from the "
                           "likeliest on",
        "top-p-single": "it compares single probabilities; add them up from the likeliest on",
        "zero-for-minus-infinity": "what is ruled out became 0, which is a likely logit; put -inf",
    }),
    Check("draw", 4, 3, cases_draw, {
        "draw-greedy": "that is the likeliest token, whatever the random number says",
        "draw-one-before": "off by one: the first token whose cumulative probability *exceeds* the "
                           "number",
        "draw-one-after": "off by one: that is the token after the one whose cumulative "
                          "probability exceeds the number",
        "draw-from-the-end": "it counts from the last token; add up from the first",
        "draw-sorted": "it adds up from the likeliest on; codes count in their own order",
        "draw-at-edge": "a number of exactly 0 gets a token without probability: the cumulative "
                        "probability must *exceed* it (<=, or right=True)",
    }),
    Check("smooth", 5, 3, cases_smooth, {
        "tau-constant": "the temperature stays at 0.27; it falls with rho",
        "rho-missing": "the logits lack the factor 1 + rho",
        "rho-over-K": "rho ends below 1: divide by K - 1",
        "tau-multiplied": "it multiplies by tau; divide",
        "noise-missing": "the Gumbel noise is missing",
        "noise-minus": "the Gumbel noise is subtracted; add it",
        "noise-outside-tau": "the noise is added after dividing by tau; it belongs inside",
        "hard-choice": "that picks one code; mix all codes by their weights",
    }, tolerance=1e-3),
    Check("sample", 6, 4, lambda r: cases_loop(r, "sample"), LOOP),
    Check("keep_maps", 7, 2, cases_keep, {
        "keep-inverted": "it is inverted: the mask is True where a picture is to be drawn, keep is "
                         "True elsewhere",
        "keep-nearest": "that samples one pixel; go down by bilinear interpolation",
        "keep-nearest-exact": "that samples one pixel; go down by bilinear interpolation",
        "keep-area": "that takes means over windows; here the protocol says bilinear",
        "keep-bicubic": "that is bicubic interpolation; here the protocol says bilinear",
        "keep-antialias": "that is antialias=True; leave it at False",
        "keep-whole": "it keeps only positions that are kept entirely; more than one half counts",
        "small-maps-not-forced": "maps of up to 3 tokens are kept entirely: they say what the "
                                 "whole picture is",
        "forces-four": "a map of 4 tokens is kept entirely; the limit is 3",
        "keep-ties": "a place kept by exactly one half is not kept: > 0.5, not >=",
        "keep-touched": "it keeps every place that the kept part touches; more than one half "
                        "counts",
    }),
    Check("inpaint", 8, 4, lambda r: cases_loop(r, "inpaint"), PAINTING | LOOP),
]  # fmt: skip
