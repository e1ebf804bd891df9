"""Assignment 2, the transformer: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from . import a2_reference as ref
from .a2_reference import reference
from .checks import NONE, Check
from .reference import normal
from .runner import Call

TITLE = "Mask, AdaLN and attention with a cache"
MINUTES = 150

LADDERS = [[(1, 1), (2, 2), (3, 3)], [(1, 2), (1, 3), (3, 2)], [(2, 2), (2, 2), (4, 4)]]
WIDTH, HEADS = 8, 2


def mask_of(sizes) -> np.ndarray:
    """The right mask of a ladder of sizes."""
    return ref.block_mask(sizes, NONE)


def weights(rng: Generator) -> dict:
    """Of one block; none is small, so that nothing hides behind a gate near zero."""
    w, h = WIDTH, 4 * WIDTH
    shapes = {
        "qkv": (3 * w, w), "q_bias": (w,), "v_bias": (w,), "proj": (w, w), "proj_bias": (w,),
        "modulation": (6 * w, w), "modulation_bias": (6 * w,), "fc1": (h, w), "fc1_bias": (h,),
        "fc2": (w, h), "fc2_bias": (w,),
    }  # fmt: skip
    p = {name: normal(rng, *shape, scale=0.5) for name, shape in shapes.items()}
    return p | {"log_scale": normal(rng, HEADS, scale=0.3) + np.float32(np.log(4))}


def ladder(rng: Generator) -> list[tuple[int, int]]:
    """Sizes of three to five maps, coarse to fine, the last with two rows and columns or more."""
    sides = np.sort(rng.integers(1, 5, (rng.integers(3, 6), 2)), axis=0)
    sides[-1] += 1
    return [tuple(size) for size in sides.tolist()]


def cases_levels(rng):
    """Three fixed ladders, of which one repeats a size, and two random ones."""
    return [Call("level_ids", (sizes,)) for sizes in (*LADDERS, ladder(rng), ladder(rng))]


def cases_mask(rng):
    """The same ladders: own map, coarser and finer ones must be told apart."""
    return [Call("block_mask", (sizes,)) for sizes in (*LADDERS, ladder(rng), ladder(rng))]


def cases_modulate(rng):
    """Rows with a mean of their own, so that a norm without it shows."""
    x = normal(rng, 2, 5, WIDTH, scale=2) + normal(rng, 2, 5, 1)
    return [Call("modulate", (x, normal(rng, 2, WIDTH), normal(rng, 2, WIDTH)))]


def heads(rng: Generator, length: int, scale: float = 1.0) -> np.ndarray:
    """Random queries, keys or values (2, heads, length, 4)."""
    return normal(rng, 2, HEADS, length, 4, scale=scale)


def cases_attend(rng):
    """No mask; queries long and keys short, so that a norm left out shows."""
    return [
        Call(
            "attend",
            (
                heads(rng, 3, 2.0),
                heads(rng, 6, 0.5),
                heads(rng, 6),
                normal(rng, HEADS, scale=0.3) + np.float32(1.5),
                None,
            ),
        )
    ]


def cases_attend_mask(rng):
    """With a mask: where it acts, and with which sign."""
    calls = []
    for sizes in LADDERS[:2]:
        mask = mask_of(sizes)
        qkv = [heads(rng, len(mask)) for _ in range(3)]
        calls.append(Call("attend", (*qkv, np.array([1.2, 1.5], np.float32), mask)))
    return calls


def cases_clamp(rng):
    """Temperatures above the limit of 100."""
    # Keys that nearly agree: between 100 and exp(6) times their difference lies a lot.
    k = normal(rng, 2, HEADS, 1, 4) + heads(rng, 6, 0.02)
    q = normal(rng, 2, HEADS, 3, 4)
    return [Call("attend", (q, k, heads(rng, 6), np.array([6.0, 7.0], np.float32), None))]


def cases_attention(rng):
    """The whole layer, with a mask and without: parts, biases, heads, projection."""
    calls = []
    for sizes in (LADDERS[0], None):
        mask = None if sizes is None else mask_of(sizes)
        length = 5 if mask is None else len(mask)
        calls.append(Call("attention", (normal(rng, 2, length, WIDTH), weights(rng), mask)))
    return calls


def cases_block(rng):
    """A whole block: order of the six modulations, gates, residuals, activation."""
    mask = mask_of(LADDERS[0])
    x, condition = normal(rng, 2, len(mask), WIDTH), normal(rng, 2, WIDTH)
    return [Call("block", (x, condition, weights(rng), mask))]


def cases_embed(rng):
    """Words, positions and levels of two ladders."""
    calls = []
    for sizes in LADDERS[:2]:
        counts = [h * w for h, w in sizes]
        p = {"word": normal(rng, WIDTH, 3), "word_bias": normal(rng, WIDTH),
             "position": normal(rng, 1, sum(counts), WIDTH),
             "level": normal(rng, len(sizes), WIDTH)}  # fmt: skip
        start = normal(rng, 2, counts[0], WIDTH)
        calls.append(Call("embed", (start, normal(rng, 2, sum(counts[1:]), 3), p, sizes)))
    return calls


def cases_step(rng):
    """Scale after scale through one cache; the second ladder repeats a size."""
    return [
        Call(
            "step",
            (weights(rng),),
            kind="chain",
            steps=[normal(rng, 2, h * w, WIDTH) for h, w in sizes],
        )
        for sizes in (LADDERS[0], LADDERS[2])
    ]


QKV = {
    "heads-not-moved": "tokens and heads are mixed up: split the width into (heads, d), then move "
                       "the heads before the tokens",
    "qkv-order": "the three parts are taken in another order; the weight holds q, k, v",
    "q-bias-missing": "the bias of q is missing",
    "v-bias-missing": "the bias of v is missing",
    "no-output-projection": "the output projection is missing",
}  # fmt: skip

CHECKS = [
    Check("level_ids", 1, 1, cases_levels, reference, {
        "levels-from-one": "levels count from 0",
        "one-row-a-map": "a map of size (h, w) has h w tokens",
    }),
    Check("block_mask", 1, 3, cases_mask, reference, {
        "token-causal": "that is the mask of a language model, token after token; inside a scale "
                        "all tokens see each other",
        "own-scale-hidden": "one scale off: a token does not see its own scale",
        "one-scale-ahead": "one scale off: a token sees the scale after its own, which it is to "
                           "predict",
        "transposed": "rows and columns are swapped: mask[i, j] says whether i may look at j",
        "inverted": "it is inverted: True means \"may look\"",
        "own-scale-only": "a token sees its own scale only; it sees all coarser ones too",
    }),
    Check("modulate", 2, 2, cases_modulate, reference, {
        "scale-without-one": "the factor is scale; it is 1 + scale, so that zero changes nothing",
        "no-layer-norm": "the layer norm is missing",
        "mean-not-subtracted": "the mean is not subtracted: that is an RMS norm",
        "unbiased-variance": "the variance is divided by w - 1; a layer norm divides by w",
        "norm-last": "the norm comes last; first LN(x), then scale and shift",
        "scale-and-shift-swapped": "scale and shift are swapped",
    }),
    Check("attend", 3, 2, cases_attend, reference, {
        "qk-norm-missing": "the q/k norm is missing: queries and keys get length 1",
        "q-not-normalised": "the queries are not normalised; only the keys are",
        "k-not-normalised": "the keys are not normalised; only the queries are",
        "divided-by-root-d": "it divides by the root of d; the learned temperature stands in for "
                             "that",
        "temperature-ignored": "the temperature is missing: a factor exp(log_scale) for each head",
        "scale-not-exponentiated": "log_scale is used as it is; the factor is its exponential",
    }),
    Check("attend_mask", 3, 2, cases_attend_mask, reference, {
        "mask-ignored": "the mask is ignored",
        "mask-added": "the mask is added as 0 and 1; what is hidden must get -inf before the "
                      "softmax",
        "mask-after-softmax": "the mask comes after the softmax, so the weights no longer sum to "
                              "1; put -inf before it",
        "mask-inverted": "the mask is inverted: True means \"may look\"",
    }),
    Check("attend_clamp", 3, 1, cases_clamp, reference, {
        "clamp-missing": "the clamp is missing: exp(min(log_scale, ln 100)) is at most 100",
    }),
    Check("attention", 4, 3, cases_attention, reference, QKV),
    Check("block", 5, 4, cases_block, reference, {
        "gates-missing": "the gates gamma are missing",
        "silu-missing": "the condition goes through SiLU before the linear layer",
        "modulation-order": "the six parts are taken in another order (DiT's); here gamma_1, "
                            "gamma_2, s_1, s_2, b_1, b_2",
        "residual-missing": "the residual connection is missing: x + ...",
        "branches-in-parallel": "the second branch reads the old x; it reads the result of the "
                                "first",
        "relu": "that is ReLU; the activation is GELU",
    }, tolerance=2e-3),
    Check("embed", 6, 3, cases_embed, reference, {
        "level-missing": "the level embedding is missing: level[level_ids]",
        "position-missing": "the position embedding is missing",
        "next-level": "the levels are one too high",
        "word-bias-missing": "the bias of the word layer is missing",
    }),
    Check("step", 7, 4, cases_step, reference, {
        "cache-not-appended": "each scale sees itself alone: keys and values are not appended to "
                              "the cache",
        "cache-of-one-scale": "the cache holds the last scale only; it must grow",
        "own-scale-not-seen": "a scale sees the earlier ones but not itself",
        "token-causal-inside": "inside a scale tokens see only those before; with a cache no mask "
                               "is needed",
    }),
]  # fmt: skip
