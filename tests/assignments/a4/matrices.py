"""Least squares by the normal equations and their covariance matrix."""

import numpy as np


def parameters(model):
    shapes = np.array([[1, 3], [1, 1], [1, 4], [4, 1], [1, 6]])
    return int(shapes.prod(1).sum()) * model["depth"] * model["width"] ** 2


def forward_flops(model):
    w, n = model["width"], np.prod(model["sizes"], axis=1)
    length = int(n.sum())
    products = [  # times, rows, columns
        (model["depth"] * length, w, 12 * w),
        (model["depth"], w, 6 * w),
        (model["depth"] * length, w, 2 * length),
        (length - int(n[0]), model["channels"], w),
        (length, w, model["vocab"]),
    ]
    return 2 * sum(times * rows * columns for times, rows, columns in products)


def training_flops(model, images):
    return forward_flops(model) * images * 3


def attention_pairs(sizes):
    n = np.prod(sizes, axis=1)
    lower = np.tri(len(n), dtype=int)
    return int(n @ lower @ n), int(((lower @ n) ** 2).sum())


def solve(n, loss):
    design = np.stack([np.log(n), np.ones(len(n))], 1)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ np.log(loss)
    errors = np.log(loss) - design @ coefficients
    return coefficients, inverse * (errors @ errors) / (len(n) - 2)


def fit(n, loss):
    (alpha, intercept), _ = solve(n, loss)
    return float(alpha), float(np.exp(intercept / alpha))


def interval(n, loss, t):
    (alpha, _), covariance = solve(n, loss)
    half = t * np.sqrt(covariance[0, 0])
    return np.array([alpha - half, alpha + half])


def predict(n, loss, new, t):
    coefficients, covariance = solve(n, loss)
    design = np.stack([np.log(n), np.ones(len(n))], 1)
    errors = np.log(loss) - design @ coefficients
    at = np.array([np.log(new), 1.0])
    variance = (errors @ errors) / (len(n) - 2) + at @ covariance @ at
    half = t * np.sqrt(variance)
    return [np.exp(at @ coefficients + sign * half) for sign in (-1, 0, 1)]


def frontier(flops, loss):
    beaten = (flops[:, None] <= flops[None, :]) & (loss[:, None] < loss[None, :])
    return ~beaten.any(0)
