"""Logarithms to base ten throughout, polyfit's covariance, sorting for the frontier."""

import numpy as np


def parameters(model):
    return 72 * model["depth"] * (model["width"] // 2) ** 2


def forward_flops(model):
    length = sum(h * w for h, w in model["sizes"])
    first = model["sizes"][0][0] * model["sizes"][0][1]
    w, d = model["width"], model["depth"]
    weights = parameters(model) - 6 * d * w * w  # those that every token meets
    per_token = weights + w * model["vocab"] + 2 * d * w * length + model["channels"] * w
    return 2 * (length * per_token + 6 * d * w * w - first * model["channels"] * w)


def training_flops(model, images):
    forward = forward_flops(model)
    backward = 2 * forward
    return (forward + backward) * images


def attention_pairs(sizes):
    total, cached, uncached = 0, [], []
    for h, w in sizes:
        new = h * w
        cached.append(new * (total + new))
        total += new
        uncached.append(total**2)
    return sum(cached), sum(uncached)


def fit(n, loss):
    alpha, intercept = np.polyfit(np.log10(n), np.log10(loss), 1)
    return alpha, 10 ** (intercept / alpha)


def interval(n, loss, t):
    (alpha, _), covariance = np.polyfit(np.log10(n), np.log10(loss), 1, cov=True)
    half = t * covariance[0, 0] ** 0.5
    return alpha - half, alpha + half


def predict(n, loss, new, t):
    x, y = np.log10(n), np.log10(loss)
    line, errors, *_ = np.polyfit(x, y, 1, full=True)
    s = np.sqrt(errors[0] / (len(x) - 2))
    reach = 1 + 1 / len(x) + (np.log10(new) - x.mean()) ** 2 / (len(x) * x.var())
    middle = np.polyval(line, np.log10(new))
    return tuple(10 ** (middle + np.array([-1, 0, 1]) * t * s * np.sqrt(reach)))


def frontier(flops, loss):
    order = np.argsort(flops)
    best = np.minimum.accumulate(loss[order])
    return loss <= best[np.searchsorted(flops[order], flops, side="right") - 1]
