"""Assignment 4, scaling laws: references and checks."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import clear
from .runner import Call

TITLE = "Scaling laws"
NUMPY = True  # arguments stay arrays
LADDERS = [
    [(1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8)],
    [(1, 2), (2, 3), (4, 6)],
    [(2, 2), (2, 2), (5, 5)],
]
GRID = np.array([0.15, 0.25, 0.35, 0.5, 0.7])


class Reference(Base):
    """The functions as the notebook asks for them; `a4.toml` says what mistakes make of them."""

    def parameters(self, model: dict) -> int:
        d, w = model["depth"], model["width"]
        layers = 1 if model["shared"] else d  # of AdaLN
        return d * (4 * w**2 + 2 * w * model["hidden"]) + 6 * layers * w**2

    def parts(self, model: dict) -> tuple[int, int, int, int]:
        """FLOPs of a picture's forward pass: blocks, AdaLN, word layer, head."""
        d, w, counts = model["depth"], model["width"], [h * w for h, w in model["sizes"]]
        length, seen = sum(counts), np.cumsum(counts).tolist()
        pairs = sum(n * s for n, s in zip(counts, seen))
        layers = 1 if model["shared"] else d
        matrices = 2 * length * (4 * w**2 + 2 * w * model["hidden"])
        adaln = 2 * (6 * layers + 2) * w**2
        word = 2 * model["channels"] * w * (length - counts[0])
        return d * (matrices + 4 * w * pairs), adaln, word, 2 * w * model["vocab"] * length

    def forward_flops(self, model: dict) -> int:
        return sum(self.parts(model))

    def training_flops(self, model: dict, images: int, recompute: bool) -> int:
        blocks, _, word, _ = self.parts(model)
        return images * (3 * self.forward_flops(model) - word + recompute * blocks)

    def fit(self, n: Array, d: Array, loss: Array, alphas: Array, betas: Array) -> tuple:
        found = []
        for a, b in ((a, b) for a in alphas for b in betas):
            design = np.stack([np.ones(len(n)), n**-a, d**-b], 1)
            law = np.linalg.lstsq(design, loss, rcond=None)[0]
            if (law >= 0).all():
                found.append((((design @ law - loss) ** 2).sum(), *law, a, b))
        found.sort()
        gap = found[1][0] / found[0][0] - 1 if found[1:] else len(found)
        self.margins.append(min(1, gap))
        return found[0][1:] if found else (np.nan,) * 5

    def at(self, law: tuple, n: Array, d: Array) -> Array:
        floor, a, b, alpha, beta = law
        return floor + a * n**-alpha + b * d**-beta

    def optimum(self, law: tuple, budget: float, cost: float) -> tuple[float, float, float]:
        # the derivative of A N^-alpha + B (M / N)^-beta by N is 0
        (_, a, b, alpha, beta), product = law, budget / cost
        n = (alpha * a / (beta * b) * product**beta) ** (1 / (alpha + beta))
        return n, product / n, self.at(law, n, product / n)

    def interval(self, n, d, loss, alphas, betas, draws, new_n, new_d, level):
        sizes, found = np.unique(n), []
        for draw in draws:
            rows = np.concatenate([np.flatnonzero(n == sizes[i]) for i in draw])
            law = self.fit(n[rows], d[rows], loss[rows], alphas, betas)
            found.append(self.at(law, new_n, new_d))
        tail = 50 * (1 - level)
        return tuple(np.percentile(found, [tail, 100 - tail]))

    def held_out(self, n: Array, d: Array, loss: Array, alphas: Array, betas: Array) -> Array:
        found = []
        for size in np.unique(n):
            out = n == size
            law = self.fit(n[~out], d[~out], loss[~out], alphas, betas)
            found.append(np.log(self.at(law, n[out], d[out]) / loss[out]).mean())
        return np.array(found)


def models(rng: Generator) -> list[tuple[dict]]:
    """Models with ladders of different kinds, and a random one from coarse to fine."""
    ladder = [tuple(size) for size in np.sort(rng.integers(1, 17, (6, 2)), axis=0).tolist()]
    return [({
        "depth": int(rng.integers(2, 30)), "width": 64 * int(rng.integers(2, 30)), "sizes": sizes,
        "hidden": 64 * int(rng.integers(2, 90)), "shared": bool(i % 2),
        "vocab": int(rng.integers(64, 5000)), "channels": int(rng.integers(8, 64)),
        "classes": int(rng.integers(10, 1000))},)
        for i, sizes in enumerate([*LADDERS, ladder])
    ]  # fmt: skip


def runs(rng: Generator, floor: float, a: float) -> tuple:
    """Six sizes at four amounts of data each, their losses on a law with noise, in no order."""
    n = np.repeat(np.exp(np.linspace(np.log(0.02), np.log(3), 6) + 0.1 * rng.random(6)), 4)
    d = np.exp(rng.uniform(np.log(0.1), np.log(20), 24))
    alpha, beta = rng.uniform(0.2, 0.6, 2)
    loss = floor + a * n**-alpha + rng.uniform(0.3, 0.8) * d**-beta
    order = rng.permutation(24)
    return n[order], d[order], (loss * np.exp(0.03 * rng.standard_normal(24)))[order], GRID, GRID


def cases(rng: Generator, function: str) -> list[Call]:
    """Calls with runs; without a floor, or a term of the size, the best fit may be below zero."""

    def make(r, *terms):
        more = ()
        if function == "interval":
            four = [np.append(r.permutation(6)[:4], r.integers(0, 6, 2)) for _ in range(15)]
            more = (np.stack(four), r.uniform(4, 8), r.uniform(5, 40), float(r.choice([0.8, 0.9])))
        return Call(function, (*runs(r, *terms), *more), numpy=True)

    terms = [(1.5, 0.7), (0.01, 0.9), (0.8, 0.005 if function == "fit" else 0.5), (0.0, 0.6)]
    return [clear(rng, lambda r, t=t: make(r, *t), Reference, 1e-6) for t in terms]


CHECKS = [
    Check("parameters", 1, 2, models),
    Check("forward_flops", 2, 5, models),
    Check("training_flops", 3, 2, lambda rng: [
        (*one, int(rng.integers(1000, 10**6)), bool(i // 2)) for i, one in enumerate(models(rng))
    ]),
    Check("fit", 4, 5, lambda rng: cases(rng, "fit"), tolerance=1e-6),
    Check("optimum", 5, 4, lambda rng: [
        (tuple(rng.uniform([1, 0.4, 0.3, 0.2, 0.2], [2, 2, 2, 0.6, 0.6]).tolist()),
         float(np.exp(rng.uniform(0, 8))), float(rng.uniform(2, 9))) for _ in range(4)
    ]),
    Check("interval", 6, 4, lambda rng: cases(rng, "interval"), tolerance=1e-6),
    Check("held_out", 7, 3, lambda rng: cases(rng, "held_out"), tolerance=1e-6),
]  # fmt: skip
