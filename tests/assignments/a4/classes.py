"""A law as an object that fits itself; costs as attributes."""

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
        return min(pair for pair in found if min([*pair[1]][:3]) >= 0)[1]


class Cost:
    def __init__(self, depth, width, hidden, shared, sizes, vocab, channels, classes):
        maps = np.array([h * w for h, w in sizes], dtype=object)
        self.dense = depth * 2 * width * (2 * width + hidden)
        self.adaln = 6 * width**2 * (depth, 1)[shared]
        pairs = (maps * maps.cumsum()).sum()
        self.blocks = 2 * maps.sum() * self.dense + 4 * depth * width * pairs
        self.word = 2 * channels * width * maps[1:].sum()
        outside = 2 * self.adaln + 4 * width**2 + 2 * width * vocab * maps.sum()
        self.forward = self.blocks + self.word + outside


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
    ratio, both = law.alpha * law.a / (law.beta * law.b), law.alpha + law.beta
    size = ratio ** (1 / both) * total ** (law.beta / both)
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
    errors = []
    for size in np.unique(n):
        law = Law.best(*(v[n != size] for v in (n, d, loss)), alphas, betas)
        at, data, real = (v[n == size] for v in (n, d, loss))
        errors.append(np.mean(np.log(law(at, data)) - np.log(real)))
    return np.array(errors)
