"""References of assignment 4: counts, power-law fits and their intervals, right and wrong."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .runner import Call

Wrong = frozenset
Sizes = list[tuple[int, int]]


def tokens(sizes: Sizes) -> list[int]:
    """Tokens of each map."""
    return [h * w for h, w in sizes]


def parameters(model: dict, wrong: Wrong) -> int:
    """Weights of the blocks: 18 d w^2."""
    # per block: q, k, v 3 w^2, projection w^2, feed-forward 8 w^2, AdaLN 6 w^2
    d, w = model["depth"], model["width"]
    count = (12 if "adaln-forgotten" in wrong else 18) * d * w**2
    if "embeddings-counted" in wrong:
        rows = model["classes"] + 1 + sum(tokens(model["sizes"])) + len(model["sizes"])
        count += w * (rows + model["channels"])
    if "head-counted" in wrong:
        count += w * model["vocab"]
    if "feed-forward-once" in wrong:
        count -= 4 * d * w**2
    return count


def forward_flops(model: dict, wrong: Wrong) -> int:
    """FLOPs of one image: blocks, AdaLN once an image, attention of all pairs, ends."""
    d, w, counts = model["depth"], model["width"], tokens(model["sizes"])
    length = counts[-1] if "last-map-only" in wrong else sum(counts)
    block = 2 * 12 * w**2 * length
    block += 2 * 6 * w**2 * (length if "adaln-per-token" in wrong else 1)
    if "adaln-forgotten" in wrong:
        block -= 2 * 6 * w**2
    if "attention-left-out" not in wrong:
        block += (2 if "attention-halved" in wrong else 4) * w * length**2
    head = 0 if "head-left-out" in wrong else 2 * w * model["vocab"] * length
    word = 2 * model["channels"] * w * (length - counts[0])
    total = d * block + head + word
    return total // 2 if "multiply-adds" in wrong else total


def training_flops(model: dict, images: int, wrong: Wrong) -> int:
    """Forward and backward for all images."""
    # the backward pass costs twice the forward pass
    factor = 1 if "no-backward" in wrong else 2 if "backward-as-forward" in wrong else 3
    return factor * forward_flops(model, wrong) * images


def attention_pairs(sizes: Sizes, wrong: Wrong) -> tuple[int, int]:
    """Query-key pairs while drawing: (with a cache, without)."""
    n = tokens(sizes)
    seen = list(np.cumsum(n))
    cached = sum(n_k * s_k for n_k, s_k in zip(n, seen))
    uncached = sum(s_k**2 for s_k in seen)
    if "own-map-only" in wrong:
        cached = sum(n_k**2 for n_k in n)
    if "uncached-once" in wrong:
        uncached = seen[-1] ** 2
    if "earlier-maps-only" in wrong:
        cached = sum(n_k * (s_k - n_k) for n_k, s_k in zip(n, seen))
    pair = (int(cached), int(uncached))
    return pair[::-1] if "pairs-swapped" in wrong else pair


def line(x: Array, y: Array) -> tuple[float, float, float, float]:
    """Least squares: slope, intercept, sum of squared errors, sum of squared distances of x."""
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    intercept = y.mean() - slope * x.mean()
    return slope, intercept, ((y - intercept - slope * x) ** 2).sum(), spread


def fit(n, loss, wrong: Wrong) -> tuple[float, float]:
    """(alpha, beta) by least squares in logarithms."""
    # L = (beta n)^alpha  <=>  ln L = alpha ln n + alpha ln beta
    x, y = np.asarray(n), np.asarray(loss)
    if "raw-values" not in wrong:
        x, y = np.log(x), np.log(y)
    if "loss-not-logged" in wrong:
        y = np.asarray(loss)
    if "axes-swapped" in wrong:
        x, y = y, x
    slope, intercept, _, _ = line(x, y)
    if "intercept-as-beta" in wrong:
        return slope, np.exp(intercept)
    if "base-ten-mixed" in wrong:
        return slope, np.exp(intercept / slope / np.log(10))
    return slope, np.exp(intercept / slope)


def scatter(n, loss, wrong: Wrong):
    """(x, slope, intercept, spread, standard deviation of the errors), in logarithms."""
    raw = "raw-values" in wrong
    x, y = (np.asarray(v) if raw else np.log(np.asarray(v)) for v in (n, loss))
    slope, intercept, errors, spread = line(x, y)
    freedom = len(x) - (0 if "divided-by-n" in wrong else 1 if "divided-by-n-1" in wrong else 2)
    return x, slope, intercept, spread, np.sqrt(errors / freedom)


def interval(n, loss, t: float, wrong: Wrong) -> tuple[float, float]:
    """Of the slope: alpha +- t s / sqrt(sum (x - mean)^2)."""
    _, slope, _, spread, deviation = scatter(n, loss, wrong)
    half = t * deviation / (1 if "spread-forgotten" in wrong else np.sqrt(spread))
    half = half / t if "t-forgotten" in wrong else half
    return slope - half, slope + half


def predict(n, loss, new: float, t: float, wrong: Wrong) -> tuple[float, float, float]:
    """(low, middle, high) loss of a new run, noise of its own included."""
    x, slope, intercept, spread, deviation = scatter(n, loss, wrong)
    at = new if "raw-values" in wrong else np.log(new)
    own = 0 if "own-noise-forgotten" in wrong else 1
    away = 0 if "distance-forgotten" in wrong else (at - x.mean()) ** 2 / spread
    half = t * deviation * np.sqrt(own + 1 / len(x) + away)
    middle = intercept + slope * at
    if "raw-values" in wrong:
        return middle - half, middle, middle + half
    if "not-exponentiated" in wrong:
        return middle - half, middle, middle + half
    if "added-after-exp" in wrong:
        return np.exp(middle) - half, np.exp(middle), np.exp(middle) + half
    return np.exp(middle - half), np.exp(middle), np.exp(middle + half)


def frontier(flops, loss, wrong: Wrong) -> Array:
    """True for a run when no run of as much compute or less has a lower loss."""
    flops, loss = np.asarray(flops), np.asarray(loss)
    if "best-run-only" in wrong:
        return loss == loss.min()
    if "highest-loss" in wrong:
        loss = -loss
    on = []
    for c, own in zip(flops, loss):
        if "neighbour-only" in wrong:
            before = flops[flops < c]
            on.append(not len(before) or own < loss[flops == before.max()].min())
        elif "more-compute-compared" in wrong:
            on.append(bool((loss[flops >= c] >= own).all()))
        else:
            on.append(bool((loss[flops <= c] >= own).all()))
    return np.array(on)


def reference(call: Call, wrong: Wrong):
    """The expected answer to a call, with the mistakes in `wrong` made."""
    functions = {
        "parameters": parameters, "forward_flops": forward_flops, "fit": fit,
        "training_flops": training_flops, "attention_pairs": attention_pairs,
        "interval": interval, "predict": predict, "frontier": frontier,
    }  # fmt: skip
    return functions[call.function](*call.args, wrong)
