"""Assignment 4, scaling laws: its random inputs, its checks, the mistakes to know."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from .a4_reference import reference
from .checks import Check
from .runner import Call

TITLE = "Scaling laws"
MINUTES = 90

LADDERS = [
    [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)],
    [(1, 2), (2, 3), (4, 6)],
    [(2, 2), (2, 2), (5, 5)],
]


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


def cases_parameters(rng):
    """Tables and head large enough to show when they are counted."""
    return [Call("parameters", (model,), numpy=True) for model in models(rng)]


def cases_flops(rng):
    """The same models: attention, AdaLN, head and word layer each have their share."""
    return [Call("forward_flops", (model,), numpy=True) for model in models(rng)]


def cases_training(rng):
    """Random numbers of images: forward and backward."""
    return [
        Call("training_flops", (model, int(rng.integers(1000, 10**6))), numpy=True)
        for model in models(rng)
    ]


def cases_pairs(rng):
    """Fixed ladders and a random one, with a cache and without."""
    ladder = np.sort(rng.integers(1, 17, (6, 2)), axis=0).tolist()
    return [
        Call("attention_pairs", (sizes,), numpy=True)
        for sizes in [*LADDERS, [tuple(size) for size in ladder]]
    ]


def cases_fit(rng):
    """Three noisy power laws."""
    return [Call("fit", runs(rng), numpy=True) for _ in range(3)]


def cases_interval(rng):
    """Few runs and more, each with its quantile of Student's t."""
    return [
        Call("interval", (*runs(rng, count), t), numpy=True)
        for count, t in ((6, 2.776), (12, 2.228))
    ]


def cases_predict(rng):
    """Above, below and inside the range that was fitted."""
    return [
        Call("predict", (*runs(rng, count), new, t), numpy=True)
        for count, t, new in ((6, 2.776, 10.0), (12, 2.228, 0.002), (9, 2.365, 0.3))
    ]


def cases_frontier(rng):
    """Runs on which each mistake gives another answer."""
    calls = []
    while len(calls) < 2:
        flops = np.exp(rng.uniform(0, 8, 9))
        call = Call("frontier", (flops, 5 * flops**-0.1 + 0.8 * rng.random(9)), numpy=True)
        kinds = ("", "best-run-only", "highest-loss", "neighbour-only", "more-compute-compared")
        answers = {reference(call, frozenset({kind})).tobytes() for kind in kinds}
        calls += [call] if len(answers) == len(kinds) else []
    return calls


RAW = "it fits the raw numbers; a power law is a straight line in their logarithms"
CHECKS = [
    Check("parameters", 1, 2, cases_parameters, reference, {
        "embeddings-counted": "embeddings are counted; leave out the tables of classes, positions "
                              "and levels and the word layer",
        "head-counted": "the head is counted; only the blocks count",
        "adaln-forgotten": "AdaLN is forgotten: 6 w^2 in each block",
        "feed-forward-once": "the feed-forward layer has two matrices of 4 w^2",
    }),
    Check("forward_flops", 2, 4, cases_flops, reference, {
        "multiply-adds": "multiply-adds are counted once; each is two FLOPs",
        "adaln-per-token": "AdaLN is counted for every token; it runs once an image",
        "adaln-forgotten": "AdaLN is forgotten: one product w x 6w in each block, once an image",
        "attention-left-out": "the attention itself is missing: scores and mixing, L^2 pairs",
        "attention-halved": "attention has two products over all pairs, the scores and the mixing",
        "last-map-only": "only the tokens of the last map are counted; L is the sum over all maps",
        "head-left-out": "the head is missing: w x V for each token",
    }),
    Check("training_flops", 2, 1, cases_training, reference, {
        "no-backward": "the backward pass is missing; it costs twice the forward pass",
        "backward-as-forward": "the backward pass costs twice the forward pass, not once",
    }),
    Check("attention_pairs", 3, 3, cases_pairs, reference, {
        "own-map-only": "with a cache a query looks at all maps so far, not at its own alone",
        "earlier-maps-only": "with a cache a query looks at its own map, too",
        "uncached-once": "without a cache every step computes all pairs of all maps so far again",
        "pairs-swapped": "the two counts are swapped: first with a cache, then without",
    }),
    Check("fit", 4, 4, cases_fit, reference, {
        "raw-values": RAW,
        "loss-not-logged": "only n is in logarithms; the loss must be, too",
        "axes-swapped": "n and loss are swapped: the loss is explained by n",
        "intercept-as-beta": "the intercept of the line is alpha ln beta: divide it by alpha "
                             "before exp",
        "base-ten-mixed": "log10 and exp do not go together: np.log with np.exp, or log10 with 10 "
                          "to the power",
    }, tolerance=1e-6),
    Check("interval", 5, 3, cases_interval, reference, {
        "raw-values": RAW,
        "divided-by-n": "the variance is divided by n; two numbers were fitted, so n - 2",
        "divided-by-n-1": "the variance is divided by n - 1; two numbers were fitted, so n - 2",
        "spread-forgotten": "that is the scatter of the points; for the slope divide by the root "
                            "of the sum of (x - mean)^2",
        "t-forgotten": "the factor t is missing: that is one standard error",
    }, tolerance=1e-6),
    Check("predict", 6, 4, cases_predict, reference, {
        "raw-values": RAW,
        "own-noise-forgotten": "that is the interval of the line; a new run has noise of its own, "
                               "the 1 under the root",
        "distance-forgotten": "far from the data the line is less sure: the term (x - mean)^2",
        "not-exponentiated": "those are logarithms of the loss; take exp at the end",
        "added-after-exp": "the half width belongs inside exp: it is a difference of logarithms",
        "divided-by-n": "the variance is divided by n; two numbers were fitted, so n - 2",
    }, tolerance=1e-6),
    Check("frontier", 7, 4, cases_frontier, reference, {
        "best-run-only": "that is the best run of all; the frontier has the best for each budget",
        "highest-loss": "it looks for the highest loss",
        "neighbour-only": "it compares with the next cheaper run only; compare with all cheaper "
                          "ones",
        "more-compute-compared": "it compares with dearer runs; a cheaper run must not be better",
    }),
]  # fmt: skip
