"""A law as an object that fits itself; costs as properties."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

import numpy as np


@dataclass
class Law:
    floor: float
    a: float
    b: float
    alpha: float
    beta: float

    def __call__(self, n, d):
        return self.floor + self.a / n**self.alpha + self.b / d**self.beta

    def __iter__(self):
        return (getattr(self, field.name) for field in fields(self))

    @property
    def fair(self) -> bool:
        return self.floor >= 0 and self.a >= 0 and self.b >= 0

    @classmethod
    def with_exponents(cls, n, d, loss, alpha, beta) -> tuple[float, Law]:
        x, y = n**-alpha, d**-beta
        centred = np.stack([x - x.mean(), y - y.mean()])
        a, b = np.linalg.solve(centred @ centred.T, centred @ (loss - loss.mean()))
        law = cls(loss.mean() - a * x.mean() - b * y.mean(), a, b, alpha, beta)
        return ((law(n, d) - loss) ** 2).sum(), law

    @classmethod
    def best(cls, n, d, loss, alphas, betas) -> Law:
        found = [cls.with_exponents(n, d, loss, *pair) for pair in product(alphas, betas)]
        return min((pair for pair in found if pair[1].fair), key=lambda pair: pair[0])[1]


@dataclass
class Cost:
    depth: int
    width: int
    hidden: int
    shared: bool
    sizes: list
    vocab: int
    channels: int
    classes: int

    @property
    def adaln(self) -> int:
        return 6 * self.width**2 * (self.depth, 1)[self.shared]

    @property
    def dense(self) -> int:
        return self.depth * 2 * self.width * (2 * self.width + self.hidden)

    @property
    def maps(self) -> np.ndarray:
        return np.array([h * w for h, w in self.sizes], dtype=object)

    @property
    def blocks(self) -> int:
        pairs = (self.maps * self.maps.cumsum()).sum()
        return 2 * self.maps.sum() * self.dense + 4 * self.depth * self.width * pairs

    @property
    def word(self) -> int:
        return 2 * self.channels * self.width * self.maps[1:].sum()

    @property
    def forward(self) -> int:
        head = 2 * self.width * self.vocab * self.maps.sum()
        return self.blocks + 2 * self.adaln + 4 * self.width**2 + self.word + head


def parameters(model):
    return Cost(**model).dense + Cost(**model).adaln


def forward_flops(model):
    return Cost(**model).forward


def training_flops(model, images, recompute):
    cost = Cost(**model)
    return images * (3 * cost.forward - cost.word + cost.blocks * recompute)


def fit(n, d, loss, alphas, betas):
    return tuple(Law.best(n, d, loss, alphas, betas))


def optimum(law, budget, cost):
    law, total = Law(*law), budget / cost
    ratio = law.alpha * law.a / (law.beta * law.b)
    both = law.alpha + law.beta
    size, data = ratio ** (1 / both) * total ** (law.beta / both), 0.0
    data = ratio ** (-1 / both) * total ** (law.alpha / both)
    return size, data, law(size, data)


def interval(n, d, loss, alphas, betas, draws, new_n, new_d, level):
    groups = [np.flatnonzero(n == size) for size in sorted(set(n.tolist()))]
    each = []
    for draw in draws:
        rows = np.concatenate([groups[i] for i in draw])
        each.append(Law.best(n[rows], d[rows], loss[rows], alphas, betas)(new_n, new_d))
    return np.quantile(each, [(1 - level) / 2, 1 - (1 - level) / 2])


def held_out(n, d, loss, alphas, betas):
    def error(size):
        law = Law.best(*(v[n != size] for v in (n, d, loss)), alphas, betas)
        inside = [v[n == size] for v in (n, d, loss)]
        return np.mean(np.log(law(*inside[:2])) - np.log(inside[2]))

    return np.array([error(size) for size in np.unique(n)])
