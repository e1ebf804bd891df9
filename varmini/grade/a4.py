"""Assignment 4, scaling laws: references and checks."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base

TITLE = "Scaling laws"
NUMPY = True  # arguments stay arrays
Sizes = list[tuple[int, int]]
LADDERS = [
    [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)],
    [(1, 2), (2, 3), (4, 6)],
    [(2, 2), (2, 2), (5, 5)],
]


class Reference(Base):
    """The functions as the notebook asks for them; `a4.toml` says what mistakes make of them."""

    def parameters(self, model: dict) -> int:
        # per block: q, k, v 3 w^2, projection w^2, feed-forward 8 w^2, AdaLN 6 w^2
        d, w = model["depth"], model["width"]
        return 18 * d * w**2

    def forward_flops(self, model: dict) -> int:
        d, w, counts = model["depth"], model["width"], tokens(model["sizes"])
        length = sum(counts)
        block = 2 * 12 * w**2 * length + 2 * 6 * w**2 + 4 * w * length**2
        head = 2 * w * model["vocab"] * length
        words = 2 * model["channels"] * w * (length - counts[0])
        return d * block + head + words

    def training_flops(self, model: dict, images: int) -> int:
        return 3 * images * self.forward_flops(model)

    def attention_pairs(self, sizes: Sizes) -> tuple[int, int]:
        n = tokens(sizes)
        seen = np.cumsum(n).tolist()
        cached, uncached = sum(a * s for a, s in zip(n, seen)), sum(s**2 for s in seen)
        return cached, uncached

    def fit(self, n: Array, loss: Array) -> tuple[float, float]:
        # L = (beta n)^alpha  <=>  ln L = alpha ln n + alpha ln beta
        slope, intercept = line(np.log(n), np.log(loss))
        return slope, np.exp(intercept / slope)

    def scatter(self, n: Array, loss: Array):
        """(x, slope, intercept, spread of x, standard deviation of the errors)."""
        x, y = np.log(n), np.log(loss)
        slope, beta = self.fit(n, loss)
        intercept = slope * np.log(beta)
        errors = ((y - intercept - slope * x) ** 2).sum()
        return x, slope, intercept, ((x - x.mean()) ** 2).sum(), np.sqrt(errors / (len(x) - 2))

    def interval(self, n: Array, loss: Array, t: float) -> tuple[float, float]:
        _, slope, _, spread, deviation = self.scatter(n, loss)
        half = t * deviation / np.sqrt(spread)
        return slope - half, slope + half

    def predict(self, n: Array, loss: Array, new: float, t: float) -> tuple[float, float, float]:
        x, slope, intercept, spread, deviation = self.scatter(n, loss)
        at = np.log(new)
        half = t * deviation * np.sqrt(1 + 1 / len(x) + (at - x.mean()) ** 2 / spread)
        middle = intercept + slope * at
        return np.exp(middle - half), np.exp(middle), np.exp(middle + half)

    def frontier(self, flops: Array, loss: Array) -> Array:
        return np.array([(loss[flops <= c] >= own).all() for c, own in zip(flops, loss)])


def tokens(sizes: Sizes) -> list[int]:
    """Tokens of each map."""
    return [h * w for h, w in sizes]


def line(x: Array, y: Array) -> tuple[float, float]:
    """Least squares: slope and intercept."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return slope, y.mean() - slope * x.mean()


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


def ladders(rng):
    """Fixed ladders and a random one, coarse to fine."""
    ladder = np.sort(rng.integers(1, 17, (6, 2)), axis=0).tolist()
    return [(sizes,) for sizes in [*LADDERS, [tuple(size) for size in ladder]]]


def cases_frontier(rng):
    """Runs at many budgets, and whole numbers with ties in budget, loss and both."""
    flops = np.exp(rng.uniform(0, 8, 9))
    smooth = (flops, 5 * flops**-0.1 + 0.8 * rng.random(9))
    ties = [(rng.integers(1, 5, 12) * 1.0, rng.integers(1, 6, 12) * 1.0) for _ in range(4)]
    return [smooth, *ties, (np.array([1.0, 1, 2]), np.array([2.0, 1, 1]))]


CHECKS = [
    Check("parameters", 1, 2, lambda rng: [(model,) for model in models(rng)]),
    Check("forward_flops", 2, 4, lambda rng: [(model,) for model in models(rng)]),
    Check("training_flops", 2, 1, lambda rng: [
        (model, int(rng.integers(1000, 10**6))) for model in models(rng)
    ]),
    Check("attention_pairs", 3, 3, ladders),
    Check("fit", 4, 4, lambda rng: [runs(rng) for _ in range(3)], tolerance=1e-6),
    # The last argument is a quantile of Student's t.
    Check("interval", 5, 3, lambda rng: [
        (*runs(rng, count), t) for count, t in ((6, 2.776), (12, 2.228))
    ], tolerance=1e-6),
    # Above, below and inside the range that was fitted.
    Check("predict", 6, 4, lambda rng: [
        (*runs(rng, count), new, t)
        for count, new, t in ((6, 10.0, 2.776), (12, 0.002, 2.228), (9, 0.3, 2.365))
    ], tolerance=1e-6),
    Check("frontier", 7, 4, cases_frontier),
]  # fmt: skip
