"""Assignment 4, scaling laws: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .a4_reference import Reference as Reference
from .checks import Check

TITLE = "Scaling laws"
MINUTES = 90

LADDERS = [
    [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)],
    [(1, 2), (2, 3), (4, 6)],
    [(2, 2), (2, 2), (5, 5)],
]


NUMPY = True
"""Arguments stay arrays."""


def models(rng: Generator) -> list[dict]:
    """Shapes of three models with ladders of different kinds."""
    return [
        {"depth": int(rng.integers(2, 30)), "width": 64 * int(rng.integers(2, 30)), "sizes": sizes,
         "vocab": int(rng.integers(64, 5000)), "channels": int(rng.integers(8, 64)),
         "classes": int(rng.integers(10, 1000))}
        for sizes in LADDERS
    ]  # fmt: skip


def runs(rng: Generator, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Sizes in billions of parameters, and losses on a power law with noise, in no order."""
    n = np.exp(rng.uniform(np.log(0.01), np.log(3), count))
    alpha, beta = -rng.uniform(0.15, 0.4), rng.uniform(1, 4)
    return n, (beta * n) ** alpha * np.exp(0.03 * rng.standard_normal(count))


def with_images(rng):
    """Random numbers of images."""
    return [(model, int(rng.integers(1000, 10**6))) for model in models(rng)]


def ladders(rng):
    """Fixed ladders and a random one, coarse to fine."""
    ladder = np.sort(rng.integers(1, 17, (6, 2)), axis=0).tolist()
    return [(sizes,) for sizes in [*LADDERS, [tuple(size) for size in ladder]]]


def cases_predict(rng):
    """Above, below and inside the range that was fitted, with quantiles of Student's t."""
    return [
        (*runs(rng, count), new, t)
        for count, t, new in ((6, 2.776, 10.0), (12, 2.228, 0.002), (9, 2.365, 0.3))
    ]


def cases_frontier(rng):
    """Runs at many budgets, and whole numbers with ties in budget, loss and both."""
    flops = np.exp(rng.uniform(0, 8, 9))
    smooth = (flops, 5 * flops**-0.1 + 0.8 * rng.random(9))
    ties = [(rng.integers(1, 5, 12) * 1.0, rng.integers(1, 6, 12) * 1.0) for _ in range(4)]
    return [smooth, *ties, (np.array([1.0, 1, 2]), np.array([2.0, 1, 1]))]


RAW = "it fits the raw numbers; a power law is a straight line in their logarithms"
CHECKS = [
    Check("parameters", 1, 2, lambda r: [(model,) for model in models(r)], {
        "embeddings-counted": "embeddings are counted; leave out the tables of classes, positions "
                              "and levels and the word layer",
        "head-counted": "the head is counted; only the blocks count",
        "adaln-forgotten": "AdaLN is forgotten: 6 w^2 in each block",
        "feed-forward-once": "the feed-forward layer has two matrices of 4 w^2",
        "projection-forgotten": "the output projection is forgotten: w^2 in each block",
        "v-forgotten": "q, k and v are three matrices: 3 w^2, not w^2",
    }),
    Check("forward_flops", 2, 4, lambda r: [(model,) for model in models(r)], {
        "multiply-adds": "multiply-adds are counted once; each is two FLOPs",
        "adaln-per-token": "AdaLN is counted for every token; it runs once an image",
        "adaln-forgotten": "AdaLN is forgotten: one product w x 6w in each block, once an image",
        "attention-left-out": "the attention itself is missing: scores and mixing, L^2 pairs",
        "attention-halved": "attention has two products over all pairs, the scores and the mixing",
        "last-map-only": "only the tokens of the last map are counted; L is the sum over all maps",
        "head-left-out": "the head is missing: w x V for each token",
        "word-for-all": "the word layer does not run for the tokens of the first map",
        "word-left-out": "the word layer is missing: C x w for all tokens but the first map's",
    }),
    Check("training_flops", 2, 1, with_images, {
        "no-backward": "the backward pass is missing; it costs twice the forward pass",
        "backward-as-forward": "the backward pass costs twice the forward pass, not once",
    }),
    Check("attention_pairs", 3, 3, ladders, {
        "own-map-only": "with a cache a query looks at all maps so far, not at its own alone",
        "earlier-maps-only": "with a cache a query looks at its own map, too",
        "uncached-once": "without a cache every step computes all pairs of all maps so far again",
        "pairs-swapped": "the two counts are swapped: first with a cache, then without",
    }),
    Check("fit", 4, 4, lambda r: [runs(r) for _ in range(3)], {
        "raw-values": RAW,
        "loss-not-logged": "only n is in logarithms; the loss must be, too",
        "axes-swapped": "n and loss are swapped: the loss is explained by n",
        "intercept-as-beta": "the intercept of the line is alpha ln beta: divide it by alpha "
                             "before exp",
        "base-ten-mixed": "log10 and exp do not go together: np.log with np.exp, or log10 with 10 "
                          "to the power",
    }, tolerance=1e-6),
    Check("interval", 5, 3, lambda r: [(*runs(r, 6), 2.776), (*runs(r, 12), 2.228)], {
        "raw-values": RAW,
        "divided-by-n": "the variance is divided by n; two numbers were fitted, so n - 2",
        "divided-by-n-1": "the variance is divided by n - 1; two numbers were fitted, so n - 2",
        "spread-forgotten": "that is the scatter of the points; for the slope divide by the root "
                            "of the sum of (x - mean)^2",
        "t-forgotten": "the factor t is missing: that is one standard error",
        "spread-not-rooted": "divide by the root of the sum of (x - mean)^2, not by the sum",
        "ends-swapped": "the ends are swapped: (low, high)",
    }, tolerance=1e-6),
    Check("predict", 6, 4, cases_predict, {
        "raw-values": RAW,
        "own-noise-forgotten": "that is the interval of the line; a new run has noise of its own, "
                               "the 1 under the root",
        "distance-forgotten": "far from the data the line is less sure: the term (x - mean)^2",
        "not-exponentiated": "those are logarithms of the loss; take exp at the end",
        "added-after-exp": "the half width belongs inside exp: it is a difference of logarithms",
        "height-forgotten": "the line's height is not sure either: 1/m under the root",
        "t-forgotten": "the factor t is missing",
        "divided-by-n": "the variance is divided by n; two numbers were fitted, so n - 2",
        "divided-by-n-1": "the variance is divided by n - 1; two numbers were fitted, so n - 2",
    }, tolerance=1e-6),
    Check("frontier", 7, 4, cases_frontier, {
        "best-run-only": "that is the best run of all; the frontier has the best for each budget",
        "highest-loss": "it looks for the highest loss",
        "neighbour-only": "it compares with the next cheaper run only; compare with all cheaper "
                          "ones",
        "ties-in-turn": "of runs that cost the same, each is compared with those before it only; "
                        "compare it with all that cost as much",
        "ties-lose": "an equal loss does not throw a run out; only a lower one does",
        "same-cost-ignored": "runs that cost the same are not compared; as much *or less* counts",
        "more-compute-compared": "it compares with dearer runs; a cheaper run must not be better",
    }),
]  # fmt: skip
