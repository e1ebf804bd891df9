"""Assignment 3, the sampler: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from . import a3_reference as ref
from .a3_reference import reference
from .checks import NONE, Check, difference
from .reference import normal, wide
from .runner import Call

TITLE = "The sampler"
MINUTES = 120

CLEAR = 1e-3
"""No decision of the reference may be closer than this, so that float32 decides alike."""
SIZES = [(1, 1), (2, 2), (3, 4), (5, 6)]


def clear(rng: Generator, make, function, telling: tuple[str, ...] = ()) -> Call:
    """A call whose decisions are all clear, and on which each mistake of `telling` shows."""
    while True:
        call, margins = make(rng), []
        right = function(*wide(call.args), NONE, margins)
        if min(margins) > CLEAR and all(
            difference(reference(call, frozenset({wrong})), right, 1e-3) for wrong in telling
        ):
            return call


def uniform(rng: Generator, *shape: int) -> np.ndarray:
    """Random numbers in [0, 1), float32."""
    return rng.random(shape).astype(np.float32)


def cases_guide(rng):
    """First, middle and last scales, so that the ends of the ramp show."""
    return [
        Call("guide", (normal(rng, 2, 3, 7), normal(rng, 2, 3, 7), k, scales, cfg))
        for k, scales, cfg in ((0, 4, 1.5), (1, 4, 1.5), (3, 4, 3.0), (2, 6, 0.7))
    ]


def cases_top_k(rng):
    """Some, one, none (0: keep all), exactly all, and more than there are."""
    return [Call("keep_top_k", (normal(rng, 2, 3, 9), top_k)) for top_k in (3, 1, 0, 9, 30)]


def cases_top_p(rng):
    """Wide and narrow sets, codes ruled out before, and the values that keep all."""

    def case(scale, top_p, gone=()):
        return clear(
            rng,
            lambda r: Call("keep_top_p", (logits(r, scale, gone), top_p)),
            ref.keep_top_p,
        )

    def logits(r, scale, gone):
        values = normal(r, 2, 3, 9, scale=scale)
        values[..., gone] = -np.inf  # ruled out before, as top-k does
        return values

    calls = [case(1.0, 0.7), case(2.0, 0.9), case(1.5, 0.02), case(1.0, 0.5, [2, 5])]
    return calls + [Call("keep_top_p", (normal(rng, 2, 3, 9), top_p)) for top_p in (1.0, 0.0)]


def cases_draw(rng):
    """Uniform numbers away from the edges; codes without probability at both ends."""

    def few(r):
        logits = normal(r, 2, 5, 8, scale=1.5)
        logits[..., [0, 3, 7]] = -np.inf
        return Call("draw", (logits, uniform(r, 2, 5)))

    def all_(r):
        return Call("draw", (normal(r, 3, 4, 6), uniform(r, 3, 4)))

    return [clear(rng, all_, ref.draw), clear(rng, few, ref.draw)]


def cases_smooth(rng):
    """Several scales with given Gumbel noise: temperature, factor and noise."""

    def gumbel(*shape):
        return -np.log(-np.log(rng.random(shape))).astype(np.float32)

    return [
        Call(
            "smooth",
            (normal(rng, 2, 3, 9, scale=0.5), gumbel(2, 3, 9), normal(rng, 9, 4), k, scales),
        )
        for k, scales in ((0, 4), (1, 4), (2, 4), (4, 6))
    ]


def toy(rng: Generator) -> dict:
    """A small model by its weights: what `toy.ToyModel` and the reference are made from."""
    batch, codes, channels, (h, w) = 2, 10, 4, SIZES[0]
    return {"toy": {
        "sizes": SIZES, "codebook": normal(rng, codes, channels),
        "start": normal(rng, batch, h * w, channels), "weight": normal(rng, channels, codes),
        "bias": normal(rng, len(SIZES), 1, codes, scale=0.5),
        "null": normal(rng, channels, codes, scale=0.6),
    }}  # fmt: skip


def cases_sample(rng):
    """The whole loop, on a draw on which every mistake of it shows."""

    def make(r):
        uniforms = [uniform(r, 2, h * w) for h, w in SIZES]
        return Call("sample", (toy(r), uniforms, 1.5, 5, 0.8))

    return [clear(rng, make, ref.sample, tuple(LOOP))]


def box(rng: Generator, side: int = 16) -> np.ndarray:
    """A mask (side, side) with a rectangle to be drawn."""
    mask = np.zeros((side, side), bool)
    top, left = rng.integers(1, side // 2, 2)
    bottom, right = rng.integers(side // 2 + 1, side, 2)
    mask[top:bottom, left:right] = True
    return mask


def clear_box(rng: Generator, sizes) -> np.ndarray:
    """A box on whose maps no place is kept by about one half, and kinds of mask differ."""
    while True:
        mask = box(rng)
        maps = [
            ref.keep_maps(mask, sizes, w)
            for w in (NONE, *map(frozenset, zip(("keep-nearest", "keep-area", "forces-four"))))
        ]
        gap = min(np.abs(ref.keep_values(mask, size) - 0.5).min() for size in sizes)
        different = all(any((a != b).any() for a, b in zip(maps[0], other)) for other in maps[1:])
        if gap > CLEAR and different:
            return mask


def cases_keep(rng):
    """Two boxes, and an edge through the middle of places: kept by exactly one half."""
    sizes = [(1, 1), (1, 3), (2, 2), (3, 5), (5, 5), (7, 6)]
    tie = np.zeros((8, 8), bool)
    tie[:, : int(rng.choice([1, 3, 5]))] = True  # ends in the middle of a place of the 4x4 map
    return [Call("keep_maps", (clear_box(rng, sizes), sizes)) for _ in range(2)] + [
        Call("keep_maps", (tie, [(1, 2), (2, 2), (4, 4), (8, 8)]))
    ]


def cases_inpaint(rng):
    """The loop with own tokens, on a draw on which every mistake of it shows."""
    mask = clear_box(rng, SIZES)

    def make(r):
        own = [r.integers(0, 10, (2, *size)) for size in SIZES]
        uniforms = [uniform(r, 2, h * w) for h, w in SIZES]
        return Call("inpaint", (toy(r), own, mask, uniforms, 2.0, 7, 0.95))

    return [clear(rng, make, ref.inpaint, tuple(PAINTING))]


LOOP = {
    "next-from-one-map": "the next scale reads the share of one map; it reads the sum f_hat",
    "sum-restarts": "f_hat holds one map only; add up all of them",
    "conditional-only": "guidance is left out: call guide at every scale",
    "filter-before-guidance": "top-k and top-p come after guidance, on its result",
    "top-p-first": "top-p came before top-k: it must see what top-k has left",
    "draw-greedy": "that takes the likeliest tokens; draw with the random numbers",
}  # fmt: skip
PAINTING = {
    "kept-not-forced": "the kept tokens are not forced: the whole picture is drawn anew",
    "forced-too-late": "the kept tokens are put in after the scale was added to f_hat, so the "
                       "next scale reads the wrong picture",
    "keep-inverted": "the wrong part is forced: keep is True where the picture's own tokens "
                     "stay",
    "small-maps-not-forced": "maps of up to 3 tokens are kept entirely",
}  # fmt: skip
CHECKS = [
    Check("guide", 1, 3, cases_guide, reference, {
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
    }),
    Check("keep_top_k", 2, 2, cases_top_k, reference, {
        "top-k-one-more": "it keeps one token too many",
        "top-k-one-less": "it keeps one token too few",
        "top-k-lowest": "it keeps the least likely tokens",
        "zero-for-minus-infinity": "what is ruled out became 0, which is a likely logit; put -inf",
    }),
    Check("keep_top_p", 3, 4, cases_top_p, reference, {
        "top-p-one-less": "off by one: the token that crosses top_p stays out; the set must reach "
                          "top_p",
        "top-p-one-more": "off by one: it keeps one token after the set has reached top_p",
        "top-p-unsorted": "it adds up probabilities in the order of the codes; sort them first",
        "top-p-unlikely": "it starts from the least likely token; sort in descending order",
        "top-p-single": "it compares single probabilities; add them up from the likeliest on",
        "zero-for-minus-infinity": "what is ruled out became 0, which is a likely logit; put -inf",
    }),
    Check("draw", 4, 3, cases_draw, reference, {
        "draw-greedy": "that is the likeliest token, whatever the random number says",
        "draw-one-before": "off by one: the first token whose cumulative probability *exceeds* the "
                           "number",
        "draw-one-after": "off by one: that is the token after the one whose cumulative "
                          "probability exceeds the number",
        "draw-from-the-end": "it counts from the last token; add up from the first",
    }),
    Check("smooth", 5, 3, cases_smooth, reference, {
        "tau-constant": "the temperature stays at 0.27; it falls with rho",
        "rho-missing": "the logits lack the factor 1 + rho",
        "noise-missing": "the Gumbel noise is missing",
        "noise-minus": "the Gumbel noise is subtracted; add it",
        "noise-outside-tau": "the noise is added after dividing by tau; it belongs inside",
        "hard-choice": "that picks one code; mix all codes by their weights",
    }, tolerance=1e-3),
    Check("sample", 6, 4, cases_sample, reference, LOOP),
    Check("keep_maps", 7, 2, cases_keep, reference, {
        "keep-inverted": "it is inverted: the mask is True where a picture is to be drawn, keep is "
                         "True elsewhere",
        "keep-nearest": "that samples one pixel; go down by bilinear interpolation",
        "keep-area": "that takes means over windows; here the protocol says bilinear",
        "small-maps-not-forced": "maps of up to 3 tokens are kept entirely: they say what the "
                                 "whole picture is",
        "forces-four": "a map of 4 tokens is kept entirely; the limit is 3",
        "keep-ties": "a place kept by exactly one half is not kept: > 0.5, not >=",
        "keep-touched": "it keeps every place that the kept part touches; more than one half "
                        "counts",
    }),
    Check("inpaint", 8, 4, cases_inpaint, reference, PAINTING),
]  # fmt: skip
