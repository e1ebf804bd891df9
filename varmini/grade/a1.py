"""Assignment 1, the multi-scale quantizer (section 3.1 of the paper): references and checks."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array
from numpy.random import Generator

from .checks import Check
from .reference import Reference as Base
from .reference import clear, conv3x3, normal, resize, wide
from .runner import Call

TITLE = "The multi-scale quantizer"
Phis = list[tuple[Array, Array]]
Sizes = list[tuple[int, int]]
CLEAR = 5e-5  # no two codes are about equally near: squared distances differ by more than this
LADDERS: list[Sizes] = [[(1, 1), (2, 2), (4, 4)], [(2, 1), (2, 3), (3, 4), (5, 6)]]
"""Square or not, from a single token or from two."""
FEW: Sizes = [(1, 1), (2, 1), (3, 3)]  # for gradients, whose references take a run for each number


class Reference(Base):
    """The functions as the notebook asks for them; `a1.toml` says what mistakes make of them."""

    def down(self, f: Array, size: tuple[int, int]) -> Array:
        return resize(f, size, "area")

    def up(self, codes: Array, size: tuple[int, int]) -> Array:
        return resize(codes, size, "bicubic")

    def phi(self, h: Array, weight: Array, bias: Array) -> Array:
        return 0.5 * h + 0.5 * conv3x3(h, weight, bias)

    def contribution(self, codes: Array, size, weight: Array, bias: Array) -> Array:
        return self.phi(self.up(codes, size), weight, bias)

    def nearest(self, z: Array, codebook: Array) -> Array:
        rows = z.transpose(0, 2, 3, 1)  # (B, h, w, C)
        product, square = rows @ codebook.T, (codebook**2).sum(1)
        score = 2 * product - square
        best = np.partition(score, -2)
        self.margins.append((best[..., -1] - best[..., -2]).min())
        return score.argmax(-1)

    def encode(self, f: Array, codebook: Array, sizes: Sizes, phis: Phis) -> list[Array]:
        residual, tokens = f, []
        for size, pair in zip(sizes, phis):
            tokens.append(self.nearest(self.down(residual, size), codebook))
            h = self.contribution(look_up(tokens[-1], codebook), sizes[-1], *pair)
            residual = residual - h
        return tokens

    def decode(self, tokens: list[Array], codebook: Array, sizes: Sizes, phis: Phis) -> Array:
        total = 0
        for codes, pair in zip((look_up(one, codebook) for one in tokens), phis):
            total = total + self.contribution(codes, sizes[-1], *pair)
        return total

    def cumulative(self, tokens, codebook, sizes, phis) -> list[Array]:
        """f_hat after each of the maps."""
        counts = range(1, len(tokens) + 1)
        return [self.decode(tokens[:count], codebook, sizes, phis) for count in counts]

    def teacher_inputs(self, tokens, codebook, sizes, phis) -> Array:
        f_hats = self.cumulative(tokens, codebook, sizes, phis)
        blocks = [self.down(f_hat, size) for f_hat, size in zip(f_hats, sizes[1:])]
        return np.concatenate([b.reshape(*b.shape[:2], -1).transpose(0, 2, 1) for b in blocks], 1)

    def loss(self, f, live_f, still, moved, beta) -> float:
        """L = 1/K sum_k |f_hat_k - sg(f)|^2 + beta |sg(f_hat_k) - f|^2 (equation 5).

        Args:
            f, still: the features, and f_hat of every scale, as constants.
            live_f, moved: the same, as functions of what the gradient is taken by.
        """
        terms = [
            ((b - f) ** 2).mean() + beta * ((a - live_f) ** 2).mean() for a, b in zip(still, moved)
        ]
        return sum(terms) / len(terms)

    def quantize(self, f, codebook, sizes, phis, beta) -> tuple[Array, float]:
        f_hats = self.cumulative(self.encode(f, codebook, sizes, phis), codebook, sizes, phis)
        return f_hats[-1], self.loss(f, f, f_hats, f_hats, beta)

    def quantize_gradient(self, call: Call, f, codebook, sizes, phis, beta) -> list[Array]:
        """Gradients to f, codebook, and one phi's weight and bias; of f_hat with its values."""
        tokens = self.encode(f, codebook, sizes, phis)
        still = self.cumulative(tokens, codebook, sizes, phis)
        at = call.wrt[2][1]  # the scale whose phi is asked for
        own = [codebook, *phis[at]]

        def slopes(value) -> list[Array]:
            """Of a function of the f_hats, by the codebook, the weight and the bias."""

            def moved(i, x):
                live = [*own[:i], x, *own[i + 1 :]]
                return self.cumulative(
                    tokens, live[0], sizes, [*phis[:at], live[1:], *phis[at + 1 :]]
                )

            return [slope(lambda x, i=i: value(moved(i, x)), part) for i, part in enumerate(own)]

        if call.output == 0:
            weight, none = wide(call.weight), [np.zeros_like(part) for part in own]
            return [weight, *none, still[-1]]
        of_f = slope(lambda x: self.loss(f, x, still, still, beta), f)
        return [of_f, *slopes(lambda f_hats: self.loss(f, f, still, f_hats, beta))]


def look_up(tokens: Array, codebook: Array) -> Array:
    """Tokens (B, h, w) to codes (B, C, h, w)."""
    return codebook[tokens].transpose(0, 3, 1, 2)


def slope(function, at: Array, step: float = 1e-3) -> Array:
    """Central differences, exact for quadratic functions up to rounding."""
    grad = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        change = np.zeros_like(at)
        change[i] = step
        grad[i] = (function(at + change) - function(at - change)) / (2 * step)
    return grad


def model(rng: Generator, sizes: Sizes, codes: int = 11, channels: int = 3) -> tuple:
    """(codebook, sizes, phis)."""
    shape = (channels, channels, 3, 3)
    phis = [(normal(rng, *shape, scale=0.3), normal(rng, channels, scale=0.3)) for _ in sizes]
    return normal(rng, codes, channels), sizes, phis


def pyramid(rng: Generator, sizes: Sizes, batch: int = 2, count: int | None = None) -> tuple:
    """(tokens, codebook, sizes, phis) with random tokens for the first `count` maps."""
    tokens = [rng.integers(0, 11, (batch, *size)) for size in sizes[:count]]
    return tokens, *model(rng, sizes)


def clear_call(rng: Generator, function: str, sizes: Sizes, *more, batch=2, shape=(11, 3)) -> Call:
    """`function` of features in which no two codes are about equally near, at any scale."""

    def make(r):
        f = normal(r, batch, shape[1], *sizes[-1])
        return Call(function, (f, *model(r, sizes, *shape), *more))

    return clear(rng, make, Reference, CLEAR)


def resized(*sizes):
    """Inputs of `down` or `up` for pairs of an old and a new size."""
    return lambda rng: [(normal(rng, 2 + i % 2, 3, *old), new) for i, (old, new) in
                        enumerate(sizes)]  # fmt: skip


def cases_nearest(rng):
    """Codes of many lengths, which tells distance from inner product; more than a byte counts."""

    def case(batch, size, count):
        def make(r):
            z, codebook = normal(r, batch * size[0] * size[1], 4), normal(r, count, 4)
            for row in z[::2]:  # half of them close to the border between two codes
                score = 2 * codebook @ row - (codebook**2).sum(1)
                second, first = score.argsort()[-2:]
                step = codebook[first] - codebook[second]
                gap = score[first] - score[second] - r.uniform(1e-4, 1e-3)
                row -= gap / (2 * step @ step) * step
            return Call("nearest", (z.reshape(batch, *size, 4).transpose(0, 3, 1, 2), codebook))

        return clear(rng, make, Reference, CLEAR)

    return [case(2, (3, 5), 15), case(3, (9, 15), 600)]


def cases_quantize(rng):
    """Values of f_hat and of the loss, with two weights of the commitment."""
    return [clear_call(rng, "quantize", sizes, b) for sizes, b in zip(LADDERS, (0.25, 0.6))]


def cases_gradient(rng, output):
    """Gradients of f_hat (output 0) or the loss (1): to f, the codebook and the second phi."""
    call = clear_call(rng, "quantize", FEW, 0.25, shape=(6, 2))
    call.kind, call.output, call.wrt = "gradient", output, [[0], [1], [3, 1, 0], [3, 1, 1]]
    call.weight = np.asarray(normal(rng, *call.args[0].shape) if output == 0 else np.float32(1))
    call.value = output == 0  # else `return f` would earn the gradient's points
    return [call]


def pyramids(rng):
    """Token maps of two schedules: a list of K integer arrays (B, h_k, w_k) each."""
    return [pyramid(rng, LADDERS[0], 3), pyramid(rng, LADDERS[1])]


CHECKS = [
    Check("down", 1, 2, resized(((8, 8), (2, 2)), ((7, 5), (3, 2)), ((4, 6), (4, 6)))),
    Check("up", 2, 2, resized(((2, 2), (8, 8)), ((3, 2), (5, 7)), ((4, 6), (4, 6)))),
    # Random convolutions with a bias, so that a factor or a bias left out shows.
    Check("phi", 3, 1, lambda rng: [
        (normal(rng, 2, c, 5, 6), normal(rng, c, c, 3, 3), normal(rng, c)) for c in (4, 3)
    ]),
    Check("contribution", 3, 2, lambda rng: [
        (normal(rng, 2, 3, *old), new, normal(rng, 3, 3, 3, 3), normal(rng, 3))
        for old, new in (((2, 2), (6, 6)), ((3, 2), (5, 7)), ((4, 5), (4, 5)))
    ]),
    Check("nearest", 4, 2, cases_nearest),
    Check("encode", 5, 4, lambda rng: [
        clear_call(rng, "encode", LADDERS[0], batch=3),
        clear_call(rng, "encode", LADDERS[1], shape=(300, 3)),
    ]),
    Check("decode", 6, 2, pyramids),
    Check("decode_some", 6, 1, lambda rng: [
        pyramid(rng, LADDERS[0], count=2), pyramid(rng, LADDERS[1], count=3)
    ], function="decode"),
    Check("teacher_inputs", 7, 3, pyramids),
    Check("quantize", 8, 1, cases_quantize, part=0),
    Check("straight_through", 8, 2, lambda rng: cases_gradient(rng, 0), function="quantize"),
    Check("loss", 8, 1, cases_quantize, function="quantize", part=1),
    Check("loss_gradient", 8, 2, lambda rng: cases_gradient(rng, 1), function="quantize"),
]  # fmt: skip
