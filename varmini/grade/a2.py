"""Assignment 2, the transformer: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .a2_reference import Reference
from .checks import Check
from .reference import normal
from .runner import Call

TITLE = "Mask, AdaLN and attention with a cache"
MINUTES = 150

LADDERS = [[(1, 1), (2, 2), (3, 3)], [(1, 2), (1, 3), (3, 2)], [(2, 2), (2, 2), (4, 4)]]


def mask_of(sizes) -> np.ndarray:
    """The right mask of a ladder of sizes."""
    return Reference().block_mask(sizes)


def weights(rng: Generator, heads: int = 2, w: int = 8) -> dict:
    """Of one block; none is small, so that nothing hides behind a gate near zero."""
    h = 4 * w
    shapes = {
        "qkv": (3 * w, w), "q_bias": (w,), "v_bias": (w,), "proj": (w, w), "proj_bias": (w,),
        "modulation": (6 * w, w), "modulation_bias": (6 * w,), "fc1": (h, w), "fc1_bias": (h,),
        "fc2": (w, h), "fc2_bias": (w,),
    }  # fmt: skip
    p = {name: normal(rng, *shape, scale=0.5) for name, shape in shapes.items()}
    return p | {"log_scale": normal(rng, heads, scale=0.3) + np.float32(np.log(4))}


def ladders(rng: Generator) -> list[tuple]:
    """Three fixed ladders, of which one repeats a size, and two random ones, coarse to fine."""

    def random():
        sides = np.sort(rng.integers(1, 5, (rng.integers(3, 6), 2)), axis=0)
        sides[-1] += 1
        return [tuple(size) for size in sides.tolist()]

    return [(sizes,) for sizes in (*LADDERS, random(), random())]


def cases_modulate(rng):
    """Rows with a mean of their own, and rows of so small a variance that the 1e-6 shows."""
    small = normal(rng, 3, 4, 12, scale=2e-3)
    x = normal(rng, 2, 5, 8, scale=2) + normal(rng, 2, 5, 1)
    return [
        (rows, normal(rng, len(rows), w), normal(rng, len(rows), w))
        for rows, w in ((x, 8), (small, 12))
    ]


def heads(rng: Generator, length: int, scale: float = 1.0, batch: int = 2, count: int = 2):
    """Random queries, keys or values (batch, count, length, 4)."""
    return normal(rng, batch, count, length, 4, scale=scale)


def cases_attend(rng):
    """No mask; queries long and keys short, so that a norm left out shows; low temperatures."""
    return [
        (*(heads(rng, length, s, batch, count) for length, s in ((3, 2.0), (6, 0.5), (6, 1.0))),
         normal(rng, count, scale=0.3) + np.float32(sigma), None)
        for batch, count, sigma in ((2, 2, 1.5), (3, 4, 1.0), (1, 3, -1.0))
    ]  # fmt: skip


def cases_attend_mask(rng):
    """With a mask: where it acts, and with which sign."""
    calls = []
    for sizes, batch, count in zip(LADDERS, (2, 3, 1), (2, 2, 3)):
        mask = mask_of(sizes)
        qkv = [heads(rng, len(mask), 1.0, batch, count) for _ in range(3)]
        calls.append((*qkv, np.linspace(1.2, 1.5, count, dtype=np.float32), mask))
    return calls


def cases_clamp(rng):
    """Temperatures above the limit of 100."""
    # Keys that nearly agree: between 100 and exp(6) times their difference lies a lot.
    k = heads(rng, 1) + heads(rng, 6, 0.02)
    return [(heads(rng, 3), k, heads(rng, 6), np.array([6.0, 7.0], np.float32), None)]


def cases_attention(rng):
    """The whole layer, with a mask and without: parts, biases, heads, projection."""
    calls = []
    for sizes, batch, count, w in ((LADDERS[0], 2, 2, 8), (None, 3, 4, 12)):
        mask = None if sizes is None else mask_of(sizes)
        length = 5 if mask is None else len(mask)
        calls.append((normal(rng, batch, length, w), weights(rng, count, w), mask))
    return calls


def cases_block(rng):
    """A whole block: order of the six modulations, gates, residuals, activation."""
    mask = mask_of(LADDERS[0])
    return [
        (normal(rng, batch, len(mask), w), normal(rng, batch, w), weights(rng, count, w), mask)
        for batch, count, w in ((2, 2, 8), (3, 4, 12))
    ]


def cases_embed(rng):
    """Words, positions and levels of three ladders."""
    calls = []
    for sizes, batch, w in zip(LADDERS, (2, 3, 2), (8, 6, 8)):
        counts = [h * w for h, w in sizes]
        p = {"word": normal(rng, w, 3), "word_bias": normal(rng, w),
             "position": normal(rng, 1, sum(counts), w),
             "level": normal(rng, len(sizes), w)}  # fmt: skip
        start = normal(rng, batch, counts[0], w)
        calls.append((start, normal(rng, batch, sum(counts[1:]), 3), p, sizes))
    return calls


def cases_step(rng):
    """Two sequences in turn, each with its cache; the second ladder repeats a size."""

    def sequence(sizes, batch, w):
        return [normal(rng, batch, h * v, w) for h, v in sizes]

    return [
        Call("step", (weights(rng, count, w),), kind="chain",
             steps=[sequence(LADDERS[0], 2, w), sequence(LADDERS[2], batch, w)])
        for count, w, batch in ((2, 8, 2), (4, 12, 3))
    ]  # fmt: skip


QKV = {
    "heads-not-moved": "tokens and heads are mixed up: split the width into (heads, d), then move "
                       "the heads before the tokens",
    "qkv-order": "the three parts are taken in another order; the weight holds q, k, v",
    "q-bias-missing": "the bias of q is missing",
    "v-bias-missing": "the bias of v is missing",
    "k-bias-added": "k has no bias; only q and v have one",
    "no-output-projection": "the output projection is missing",
    "projection-bias-missing": "the bias of the output projection is missing",
    "heads-last": "the width is split into (d, heads); head after head means (heads, d)",
    "heads-joined-unmoved": "the heads are joined without moving them back behind the tokens",
}  # fmt: skip

CHECKS = [
    Check("level_ids", 1, 1, ladders, {
        "levels-from-one": "levels count from 0",
        "one-row-a-map": "a map of size (h, w) has h w tokens",
    }),
    Check("block_mask", 1, 3, ladders, {
        "token-causal": "that is the mask of a language model, token after token; inside a scale "
                        "all tokens see each other",
        "own-scale-hidden": "one scale off: a token does not see its own scale",
        "one-scale-ahead": "one scale off: a token sees the scale after its own, which it is to "
                           "predict",
        "transposed": "rows and columns are swapped: mask[i, j] says whether i may look at j",
        "inverted": "it is inverted: True means \"may look\"",
        "own-scale-only": "a token sees its own scale only; it sees all coarser ones too",
    }),
    Check("modulate", 2, 2, cases_modulate, {
        "scale-without-one": "the factor is scale; it is 1 + scale, so that zero changes nothing",
        "no-layer-norm": "the layer norm is missing",
        "mean-not-subtracted": "the mean is not subtracted: that is an RMS norm",
        "unbiased-variance": "the variance is divided by w - 1; a layer norm divides by w",
        "norm-last": "the norm comes last; first LN(x), then scale and shift",
        "scale-and-shift-swapped": "scale and shift are swapped",
        "eps-too-large": "1e-5, torch's usual eps, is added to the variance; here it is 1e-6",
        "eps-missing": "nothing is added to the variance; 1e-6 is",
        "eps-on-deviation": "1e-6 is added to the standard deviation; add it to the variance",
    }),
    Check("attend", 3, 2, cases_attend, {
        "qk-norm-missing": "the q/k norm is missing: queries and keys get length 1",
        "q-not-normalised": "the queries are not normalised; only the keys are",
        "k-not-normalised": "the keys are not normalised; only the queries are",
        "divided-by-root-d": "it divides by the root of d; the learned temperature stands in for "
                             "that",
        "temperature-ignored": "the temperature is missing: a factor exp(log_scale) for each head",
        "scale-not-exponentiated": "log_scale is used as it is; the factor is its exponential",
        "softmax-over-queries": "the softmax runs over the queries; each query weighs the keys "
                                "(the last dimension)",
        "clamp-below": "log_scale is clamped from below as well; it may be negative",
    }),
    Check("attend_mask", 3, 2, cases_attend_mask, {
        "mask-ignored": "the mask is ignored",
        "mask-added": "the mask is added as 0 and 1; what is hidden must get -inf before the "
                      "softmax",
        "mask-after-softmax": "the mask comes after the softmax, so the weights no longer sum to "
                              "1; put -inf before it",
        "mask-inverted": "the mask is inverted: True means \"may look\"",
        "zero-for-minus-infinity": "what is hidden gets the score 0, like any other; put -inf",
    }, function="attend"),
    Check("attend_clamp", 3, 1, cases_clamp, {
        "clamp-missing": "the clamp is missing: exp(min(log_scale, ln 100)) is at most 100",
    }, function="attend"),
    Check("attention", 4, 3, cases_attention, QKV),
    Check("block", 5, 4, cases_block, {
        "gates-missing": "the gates gamma are missing",
        "silu-missing": "the condition goes through SiLU before the linear layer",
        "modulation-order": "the six parts are taken in another order (DiT's); here gamma_1, "
                            "gamma_2, s_1, s_2, b_1, b_2",
        "residual-missing": "the residual connection is missing: x + ...",
        "branches-in-parallel": "the second branch reads the old x; it reads the result of the "
                                "first",
        "relu": "that is ReLU; the activation is GELU",
    }, tolerance=2e-3),
    Check("embed", 6, 3, cases_embed, {
        "level-missing": "the level embedding is missing: level[level_ids]",
        "position-missing": "the position embedding is missing",
        "next-level": "the levels are one too high",
        "word-bias-missing": "the bias of the word layer is missing",
        "start-last": "the class comes last; the first map's tokens come first",
    }),
    Check("step", 7, 4, cases_step, {
        "cache-not-appended": "each scale sees itself alone: keys and values are not appended to "
                              "the cache",
        "cache-of-one-scale": "the cache holds the last scale only; it must grow",
        "own-scale-not-seen": "a scale sees the earlier ones but not itself",
        "token-causal-inside": "inside a scale tokens see only those before; with a cache no mask "
                               "is needed",
    }),
]  # fmt: skip
