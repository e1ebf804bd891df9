"""A fitted law as an object that answers all three questions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass
class Law:
    n: np.ndarray
    loss: np.ndarray

    @cached_property
    def x(self) -> np.ndarray:
        return np.log(self.n)

    @cached_property
    def y(self) -> np.ndarray:
        return np.log(self.loss)

    @cached_property
    def alpha(self) -> float:
        return np.cov(self.x, self.y)[0, 1] / self.x.var(ddof=1)

    @cached_property
    def spread(self) -> float:
        return self.x.var() * len(self.x)

    @cached_property
    def error(self) -> float:
        rest = self.y - self.at(self.x)
        return np.sqrt(rest @ rest / (len(self.x) - 2))

    def at(self, x):
        return self.y.mean() + self.alpha * (x - self.x.mean())

    def reach(self, x) -> float:
        return self.error * np.hypot(
            np.sqrt(1 + 1 / len(self.x)), (x - self.x.mean()) / np.sqrt(self.spread)
        )


@dataclass
class Cost:
    depth: int
    width: int
    sizes: list
    vocab: int
    channels: int
    classes: int

    @property
    def blocks(self) -> int:
        return self.depth * self.width**2 * (4 + 8 + 6)

    @property
    def maps(self) -> np.ndarray:
        return np.array([h * w for h, w in self.sizes], dtype=object)

    @property
    def forward(self) -> int:
        length = self.maps.sum()
        attention = self.depth * 4 * self.width * length**2
        adaln = self.depth * 12 * self.width**2
        dense = self.depth * 24 * self.width**2 * length
        word = 2 * self.channels * self.width * self.maps[1:].sum()
        return attention + adaln + dense + word + 2 * self.width * self.vocab * length


def parameters(model):
    return Cost(**model).blocks


def forward_flops(model):
    return Cost(**model).forward


def training_flops(model, images):
    return 3.0 * Cost(**model).forward * images


def attention_pairs(sizes):
    n = np.array([h * w for h, w in sizes])
    steps = [n[: k + 1] for k in range(len(n))]
    return int(sum(s[-1] * s.sum() for s in steps)), int(sum(s.sum() ** 2 for s in steps))


def fit(n, loss):
    law = Law(n, loss)
    return law.alpha, np.exp(law.at(0) / law.alpha)


def interval(n, loss, t):
    law = Law(n, loss)
    half = t * law.error / np.sqrt(law.spread)
    return law.alpha - half, law.alpha + half


def predict(n, loss, new, t):
    law, x = Law(n, loss), np.log(new)
    return tuple(np.exp(law.at(x) + sign * t * law.reach(x)) for sign in (-1, 0, 1))


def frontier(flops, loss):
    on, best = np.zeros(len(loss), bool), np.inf
    for i in sorted(range(len(loss)), key=lambda i: (flops[i], loss[i])):
        on[i] = loss[i] <= best
        best = min(best, loss[i])
    return on
